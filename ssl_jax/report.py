"""Rewrites the report of a run: python -m ssl_jax.report --run runs/x

Training writes RUN/report.html by itself. Use this for runs of earlier versions, or to compare a
run with reference curves: --reference experiments/hubert/curves.json. Several runs: --run runs/*.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from ssl_jax.core import paths, progress, terminal
from ssl_jax.reports import run_report


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, writes the reports and prints their paths."""
    parser = argparse.ArgumentParser(prog="python -m ssl_jax.report", description=__doc__)
    parser.add_argument(
        "--run", required=True, nargs="+", help="run folders: --workdir of ssl_jax.train"
    )
    parser.add_argument("--reference", default="", help="curves to compare with, a curves.json")
    args = parser.parse_args(argv)
    terminal.forgive()
    progress.tell(terminal.on_cpu())
    try:
        given = args.reference
        bands = json.loads(paths.of(given).read_text(encoding="utf-8")) if given else None
        for run in args.run:
            print(f"written to {run_report.write(run, bands)}")
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
