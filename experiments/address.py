"""Where this repository is published: ADDRESS in setup.py is the only place that says so.

`python -m experiments.tables` writes it into the notebooks, README.md, docs/ and CITATION.cff.
"""

import ast
import json
import re
from pathlib import Path

from ssl_jax.core import atomic

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
FIRST = NOTEBOOKS / "first_cell.py"
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"


def constant(name: str) -> str:
    """Returns a constant of setup.py, such as ADDRESS or VERSION."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            return str(ast.literal_eval(node.value))
    raise ValueError(f"setup.py has no {name}")


def badge(address: str, notebook: str) -> str:
    """Returns the badge that opens a notebook in Colab; "" if it would lead nowhere.

    Colab opens what is on GitHub, here from the branch main.
    """
    found = re.fullmatch(r"https://github\.com/([^/]+/[^/]+?)(\.git)?/?", address)
    if not found:
        return ""
    where = f"https://colab.research.google.com/github/{found[1]}/blob/main/notebooks"
    return f"[![Open in Colab]({BADGE})]({where}/{notebook}.ipynb)"


def note(address: str, notebook: str) -> str:
    """Returns the last paragraph of the title of a notebook: what its first cell does on Colab."""
    if not address:
        return (
            "**On Colab** the first cell clones the repository and installs what the image lacks. "
            "It does not know the\naddress yet: write it into `REPO` there. In a clone it only "
            "changes to the root folder."
        )
    return (
        f"{badge(address, notebook)}\n\n".lstrip()
        + "**On Colab** the first cell clones the repository and installs what the image lacks; it "
        "keeps Colab's jax if\nthat is new enough. In a clone it only changes to the root folder."
    )


def first_cell(address: str) -> str:
    """Returns the first cell of every notebook."""
    text = FIRST.read_text(encoding="utf-8").rstrip("\n")
    return text.replace('REPO = ""', f"REPO = {json.dumps(address)}", 1)


def with_address(notebook: str, address: str) -> str:
    """Returns the text of a notebook, given by name, with the note and the first cell."""
    content = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    title, first = content["cells"][:2]
    about = re.split(r"\n\n(?:\[!\[Open in Colab|\*\*On Colab)", "".join(title["source"]))[0]
    title["source"] = f"{about}\n\n{note(address, notebook)}".splitlines(keepends=True)
    first["source"] = first_cell(address).splitlines(keepends=True)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def citation(address: str) -> str:
    """Returns the text of CITATION.cff."""
    return (
        "cff-version: 1.2.0\n"
        "message: If you use this software, please cite it by its name and version.\n"
        "type: software\n"
        "title: ssl_jax\n"
        f"version: {constant('VERSION')}\n"
        "authors:\n"
        "  - name: The ssl_jax project\n"
        "license: Apache-2.0\n" + (f"repository-code: {address}\n" if address else "")
    )


def colab() -> str:
    """Returns the badge of the quickstart for the README, or nothing."""
    found = badge(constant("ADDRESS"), "quickstart")
    return f"{found}\n" if found else ""


def clone() -> str:
    """Returns the lines of the pages that clone the repository."""
    address = constant("ADDRESS")
    about = "" if address else "`ADDRESS` stands for where you found this repository.\n\n"
    return f"{about}    git clone {address or 'ADDRESS'} ssl_jax && cd ssl_jax\n"


def report() -> str:
    """Returns the sentence that says where to report a problem."""
    address = constant("ADDRESS").removesuffix("/").removesuffix(".git")
    if address:
        return f"Open an issue at {address}/issues.\n"
    return "Open an issue where you found this repository.\n"


def write() -> None:
    """Writes the notebooks and CITATION.cff."""
    address = constant("ADDRESS")
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        atomic.write_text(path, with_address(path.stem, address))
    atomic.write_text(ROOT / "CITATION.cff", citation(address))
