"""Tables of the pages."""

from collections.abc import Mapping, Sequence


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Returns rows of {column: text} as a markdown table that ends with a newline."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[c] for c in columns] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
