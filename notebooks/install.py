"""Installs what the notebooks need into the Python that runs them, unless it is there.

Made for a bare Colab image: its jax stays, since it fits the driver of the accelerator. Only a jax
that is too old for this project is upgraded, together with the plugin of the accelerator.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("ssl_jax", "espeakng-loader")
EXTRAS = "synth"
# the name of an accelerator's plugin, and the extra of jax that upgrades it
PLUGINS = {"jax-cuda12-plugin": "cuda12", "jax-cuda13-plugin": "cuda13", "libtpu": "tpu"}


def ready() -> None:
    """Installs this project and the voices of the synthesizer with pip, if they are missing.

    Raises RuntimeError if a package was upgraded that this Python has already imported.
    """
    here = versions()
    if {name.lower() for name in NEEDED} <= set(here):
        return
    before = imported()
    wanted, kept = plan(here, lowest((ROOT / "setup.py").read_text()))
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{line}\n" for line in kept))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
        subprocess.run([*pip, "--editable", f"{ROOT}[{EXTRAS}]", *wanted], check=True)
    renewed = sorted(name for name, old in before.items() if versions().get(name) != old)
    if renewed:
        raise RuntimeError(
            f"{', '.join(renewed)} was upgraded after it had been imported: restart the session "
            f"(Runtime > Restart session) and run this cell again"
        )


def plan(here: Mapping[str, str], least: str) -> tuple[list[str], list[str]]:
    """Returns (what to install besides this project, what must keep its version) in pip syntax.

    here: distribution -> installed version. least: the oldest jax that works.
    """
    if "jax" not in here:
        return [], []
    if _numbers(here["jax"]) >= _numbers(least):
        return [], [f"{name}=={here[name]}" for name in ("jax", "jaxlib") if name in here]
    extra = next((extra for name, extra in PLUGINS.items() if name in here), None)
    return [f"jax[{extra}]>={least}" if extra else f"jax>={least}"], []


def lowest(setup: str) -> str:
    """Returns the oldest jax that the text of a setup.py allows."""
    found = re.search(r'"jax>=([\d.]+)"', setup)
    assert found, "setup.py no longer names jax"
    return found[1]


def versions() -> dict[str, str]:
    """Returns distribution, in lower case -> version, of everything installed."""
    return {d.name.lower(): d.version for d in metadata.distributions() if d.name}


def imported() -> dict[str, str]:
    """Returns the versions of the distributions whose modules this Python has imported."""
    owners, here = metadata.packages_distributions(), versions()
    names = {d.lower() for module in set(sys.modules) & set(owners) for d in owners[module]}
    return {name: here[name] for name in names if name in here}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])
