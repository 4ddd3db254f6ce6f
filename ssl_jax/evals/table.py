"""Results as text: means, 95 % intervals and aligned columns.

The score of no rows, NaN or null in a JSON file, is shown as `none`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

NONE = "none"


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Returns (mean, half width of the 95 % Student t interval of the mean).

    The half width of a single value is nan, since one seed shows no spread.
    Raises ValueError when there is no value.
    """
    x = np.asarray(values, float).ravel()
    if not x.size:
        raise ValueError("an interval needs at least one value")
    if x.size == 1:
        return float(x[0]), float("nan")
    from scipy.special import stdtrit  # slow to import, which every command would pay for

    error = x.std(ddof=1) / np.sqrt(x.size)
    return float(x.mean()), float(stdtrit(x.size - 1, 0.975) * error)


def cell(values: Sequence[float] | float, digits: int = 3) -> str:
    """Returns "0.912 ± 0.013" for several values, "0.912" for one, "none" for no number."""
    x = np.atleast_1d(np.asarray(values, float))
    if not x.size or np.isnan(x).any():
        return NONE
    mean, half = interval(x)
    return f"{mean:.{digits}f}" if np.isnan(half) else f"{mean:.{digits}f} ± {half:.{digits}f}"


def missing(value: object) -> bool:
    """Returns whether a value is the score of no rows: None or NaN."""
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def text_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Returns rows of {column: value} as aligned text under a header; "-" where a row has none.

    Columns are in order of first appearance; those that begin with a digit are right-aligned.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    given = [[row.get(name, "-") for name in columns] for row in rows]
    body = [[NONE if missing(value) else str(value) for value in line] for line in given]
    left = [not any(line[i][:1].isdigit() for line in body) for i in range(len(columns))]
    widths = [max(map(len, column)) for column in zip(columns, *body, strict=True)]

    def line(cells: Sequence[str]) -> str:
        pairs = zip(cells, widths, left, strict=True)
        return "  ".join(c.ljust(w) if is_left else c.rjust(w) for c, w, is_left in pairs).rstrip()

    return "\n".join([line(columns), line(["-" * w for w in widths]), *map(line, body)])
