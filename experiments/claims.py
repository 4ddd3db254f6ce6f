"""Claims of the experiments, each decided by values that are paired by seed.

    python -m experiments.claims            # prints every claim with its gain and its verdict
    python -m experiments.claims --write    # makes the claims of every results file anew

The folder of an experiment has a file claims.py with CLAIMS: {name of a results file: function of
its content that returns a list of claims}. Bars stand there, fixed before the run. The program
writes the list as "claims" of its results.
"""

import argparse
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import results
from ssl_jax.core import atomic
from ssl_jax.evals import table

Claim = dict[str, Any]
Arm = tuple[str, Sequence[float]]
Maker = Callable[[Mapping[str, Any]], list[Claim]]
SEEDS = 3  # fewer show nothing
ROUNDING = 1e-9  # no claim is decided by the last bit of a value


def claim(
    text: str,
    metric: str,
    a: Arm,
    b: Arm,
    *,
    better: str = "higher",
    mean_gain: float = 0.0,
    seeds: int | None = None,
) -> Claim:
    """Returns the claim that `a` beats `b`, and whether it held.

    a, b: (name, values), paired by seed; a baseline without a seed repeats its value. mean_gain:
    the least mean gain of `a` over `b`, below 0 for "not much worse". seeds: the least number of
    seeds in which `a` is ahead, all of them by default. With fewer than three seeds no claim holds.
    """
    if better not in ("higher", "lower"):
        raise ValueError(f"{text}: better is {better!r}; use 'higher' or 'lower'")
    if len(a[1]) != len(b[1]):
        raise ValueError(
            f"{text}: {a[0]} has {len(a[1])} values and {b[0]} has {len(b[1])}; pair them by seed"
        )
    # sums of floats differ in their last bits between versions of Python
    arms = (
        {"name": name, "values": [round(float(v), 12) for v in values]} for name, values in (a, b)
    )
    made: Claim = {"claim": text, "metric": metric, "better": better}
    made |= dict(zip("ab", arms, strict=True))
    made["bar"] = {"mean_gain": mean_gain, "seeds": len(a[1]) if seeds is None else seeds}
    return made | {"held": held(made)}


def gains(made: Mapping[str, Any]) -> list[float]:
    """Returns the gain of `a` over `b` in each seed; above 0 where `a` is ahead."""
    sign = 1.0 if made["better"] == "higher" else -1.0
    pairs = zip(made["a"]["values"], made["b"]["values"], strict=True)
    return [sign * (a - b) for a, b in pairs]


def ahead(made: Mapping[str, Any]) -> int:
    """Returns the number of seeds in which `a` is ahead of `b`."""
    return sum(gain > ROUNDING for gain in gains(made))


def held(made: Mapping[str, Any]) -> bool:
    """Returns whether the values of a claim reach its bar."""
    found, bar = gains(made), made["bar"]
    if len(found) < SEEDS:
        return False
    mean = sum(found) / len(found)
    return mean >= bar["mean_gain"] - ROUNDING and ahead(made) >= bar["seeds"]


def files() -> dict[str, Maker]:
    """Returns {results file, relative to the folder of the experiments: maker of its claims}."""
    found = {}
    for path in sorted(results.HERE.glob("*/claims.py")):
        module = importlib.import_module(f"experiments.{path.parent.name}.claims")
        for name, make in module.CLAIMS.items():
            file = (path.parent / name).resolve().relative_to(results.HERE)
            found[file.as_posix()] = make
    return found


def published() -> dict[str, list[Claim]]:
    """Returns {results file: its claims} of every experiment that has run."""
    return {
        name: results.read(name)["claims"] for name in files() if (results.HERE / name).exists()
    }


def rows(found: Mapping[str, Sequence[Claim]]) -> list[dict[str, str]]:
    """Returns a row of text for each claim: both arms, the paired gain, the bar, the verdict."""
    made = []
    for name, claims in found.items():
        system = Path(name).with_suffix("").as_posix().removesuffix("/results")
        for one in claims:
            row = {"experiment": system, "claim": one["claim"], "metric": one["metric"]}
            row["metric"] += "" if one["better"] == "higher" else " (lower is better)"
            for arm in "ab":
                values = one[arm]["values"]
                shown = values[:1] if len(set(values)) == 1 else values
                row[arm] = f"{one[arm]['name']}: {table.cell(shown)}"
            own, bar = gains(one), one["bar"]
            row["gain"] = table.cell(own)
            row["ahead in"] = f"{ahead(one)} of {len(own)} seeds"
            row["bar"] = f"{bar['mean_gain']:g}, {bar['seeds']} seeds"
            made.append(row | {"verdict": "held" if one["held"] else "not held"})
    return made


def write(path: Path, make: Maker) -> None:
    """Makes the claims of a results file anew from its values."""
    found = results.read(str(path))
    found.pop("claims", None)
    atomic.write_json(path, found | {"claims": make(found)})


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the claims of all experiments, or writes them."""
    parser = argparse.ArgumentParser(prog="python -m experiments.claims", description=__doc__)
    parser.add_argument("--write", action="store_true", help="make the claims anew first")
    if parser.parse_args(argv).write:
        for name, make in files().items():
            if (results.HERE / name).exists():
                write(results.HERE / name, make)
    print(table.text_table(rows(published())))


if __name__ == "__main__":
    main()
