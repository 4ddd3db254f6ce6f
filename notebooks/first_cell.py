# In a clone of the repository this cell only changes to its root folder. Elsewhere, as on Colab, it
# clones REPO, the address of the repository as `git clone` takes it, and installs what is missing.
REPO = ""

import os
import pathlib
import subprocess
import sys

here = pathlib.Path.cwd()
places = (here, *here.parents, here / "ssl_jax")
root = next((p for p in places if (p / "configs" / "common.py").exists()), None)
if root is None:
    if not REPO:
        raise SystemExit(
            "This notebook is outside a clone and does not know where its repository is published. "
            "Write the address into REPO, in the third line of this cell, and run it again."
        )
    root = here / "ssl_jax"
    if subprocess.run(["git", "clone", "--quiet", "--depth=1", REPO, str(root)]).returncode:
        raise SystemExit(f"git could not clone {REPO}: check the address in REPO")
os.chdir(root)  # configs and runs are named from here
sys.path.insert(0, str(root))

from notebooks import install

install.ready()  # installs what is missing, and keeps the jax that is here
