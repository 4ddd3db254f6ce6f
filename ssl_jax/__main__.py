"""Lists the commands: python -m ssl_jax"""

import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path


def commands() -> dict[str, str]:
    """Returns name -> what it does, of the modules next to this one that have a `main`."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))  # an import would take seconds
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            first = (ast.get_docstring(tree) or "").splitlines()[0]
            found[path.stem] = re.split(r": |, |\.$", first)[0]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints every command with what it does; a word after `ssl_jax` is an error."""
    named = commands()
    width = max(map(len, named))
    print("Commands of ssl_jax; each has --help:\n")
    for name, text in named.items():
        print(f"  python -m ssl_jax.{name:{width}}  {text}")
    print("\nA first run: python -m ssl_jax.pipeline experiments/quickstart.py")
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given and given[0] not in ("-h", "--help"):
        name = given[0] if given[0] in named else "train"
        sys.exit(f"error: ssl_jax does not take {given[0]!r}: write `python -m ssl_jax.{name}`")


if __name__ == "__main__":
    main()
