"""Runs the notebooks and keeps what they show: python experiments/notebooks.py [notebooks/x.ipynb]

Without a name, all of them. Every notebook runs from its first cell in a new kernel; its outputs
are shortened, stripped of everything specific to this machine, and written back into the file.
Needs the extra `test`. The cell with the tag "parameters" sets the cost of a notebook; the tests
run it with smaller values.
"""

import argparse
import ast
import base64
import io
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "notebooks"
LOG_LINES = 4  # only the last lines of a longer error stream are kept
LARGE = 40_000  # bytes from which a picture is kept with a palette
_NOISE = re.compile(r"^(WARNING:absl|I\d{4} |W\d{4} |E\d{4} )")


def names() -> list[Path]:
    """Returns the notebooks in the order of their names."""
    return sorted(HERE.glob("*.ipynb"))


def run(path: Path, parameters: Mapping[str, Any], timeout: float | None = None) -> Any:
    """Returns the notebook executed in a new kernel, with some of its parameters replaced.

    timeout: seconds that a cell may take (None: any). Raises KeyError for an unknown parameter, and
    nbclient's CellExecutionError if a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    cell = parameter_cell(notebook)
    kept = cell.source
    unknown = set(parameters) - set(assigned(kept))
    if unknown:
        raise KeyError(f"{path.name} has no parameter {sorted(unknown)}: {assigned(kept)}")
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    where = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=where)
    client.execute()
    cell.source = kept
    return notebook


def parameter_cell(notebook: Any) -> Any:
    """Returns the one cell with the tag "parameters"."""
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    return cell


def assigned(source: str) -> list[str]:
    """Returns the names that the lines of a cell assign."""
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return [target.id for node in nodes for target in node.targets if isinstance(target, ast.Name)]


def tidy(notebook: Any, root: Path = ROOT) -> None:
    """Prepares the outputs for the repository: short logs, small pictures, no local paths."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = _joined(cell.outputs)
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                output.text = _short(_local(output.text, root), output.name == "stderr")
            for kind, value in output.get("data", {}).items():
                if kind == "image/png":
                    output.data[kind] = _small(value)
                elif isinstance(value, str):
                    output.data[kind] = _local(value, root)
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if o.output_type != "stream" or o.text]
    notebook.metadata.language_info = {"name": "python"}


def _joined(outputs: Sequence[Any]) -> list[Any]:
    """Returns the outputs of a cell with the streams of each name joined at the first of them."""
    kept: list[Any] = []
    for output in outputs:
        same = [o for o in kept if output.output_type == "stream" and o.get("name") == output.name]
        if same:
            same[0].text += output.text
        else:
            kept.append(output)
    return kept


def _local(text: str, root: Path) -> str:
    """Returns text with paths relative to the root of the repository or to the home folder."""
    for place, name in ((str(root), "."), (str(Path.home()), "~"), (os.uname().nodename, "host")):
        text = text.replace(place, name)
    return text


def _short(text: str, is_log: bool) -> str:
    """Returns a stream as a terminal would show it; of a long log, only the end."""
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    lines = [line for line in lines if not _NOISE.match(line)]
    while lines and not lines[-1]:
        lines.pop()
    if is_log and len(lines) > LOG_LINES:
        lines = ["...", *lines[-LOG_LINES:]]
    return "".join(f"{line}\n" for line in lines)


def _small(picture: str) -> str:
    """Returns a PNG in base64; a large one gets a palette that also keeps rare colours."""
    found = base64.b64decode(picture)
    if len(found) < LARGE:
        return picture
    image, out = Image.open(io.BytesIO(found)).convert("RGB"), io.BytesIO()
    small = image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(out, "png", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the named notebooks and writes them back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, default=names())
    for path in parser.parse_args(argv).notebooks:
        start = time.monotonic()
        notebook = run(path, {})
        tidy(notebook)
        nbformat.write(notebook, path)
        size = path.stat().st_size / 1000
        print(f"{path.name}: {time.monotonic() - start:.0f} s, {size:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
