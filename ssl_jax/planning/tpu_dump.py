"""Reads memory and collectives of a step from the TPU compiler's dump, before code generation.

Code generation takes most of the compilation time, minutes for convolutions over waveforms, and
adds nothing but the size of the code. Memory and collectives are settled before it, and the
compiler dumps them if the process was started with the XLA_FLAGS of `flags`.
"""

import os
import re
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from ssl_jax.planning import aot

LAST = "*.after_optimizations_after_buffer_assignment.txt"  # written after the files that are read
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+), (color \d+, )?page \d+, (.*):$", re.M)


def flags(folder: Path | str) -> str:
    """Returns the XLA_FLAGS that make the compiler dump a step into an empty folder."""
    return f"--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit_run"


def compiled(program: aot.Program) -> aot.Compiled:
    """Returns a step's memory and collectives, like `program.compile()` but usually sooner.

    The executable is then None and compilation continues in a thread, so leave the process with
    os._exit. Without the XLA_FLAGS of `flags` this is `program.compile()`.
    """
    named = re.search(r"--xla_dump_to=(\S+)", os.environ.get("XLA_FLAGS", ""))
    if named is None:
        return program.compile()
    done: Future = Future()

    def work() -> None:
        try:
            done.set_result(program.compile())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    while not done.done():
        if list(Path(named[1]).glob(LAST)):
            return read(program, Path(named[1]))
        time.sleep(0.2)
    return done.result()


def read(program: aot.Program, folder: Path) -> aot.Compiled:
    """Returns the step that the compiler has dumped into `folder`."""
    (text,) = folder.glob("*.after_optimizations.txt")
    (allocations,) = folder.glob("*.after_optimizations-buffer-assignment.txt")
    sent = program.sent(text.read_text(encoding="utf-8"))
    return aot.Compiled(None, memory(allocations.read_text(encoding="utf-8")), sent)


def memory(allocations: str) -> dict[str, int]:
    """Returns the bytes of a chip like `aot.memory`, from the dump of the compiler's allocations.

    Allocations with a color are not in HBM and are left out. There is no code yet.
    """
    found = {"arguments": 0, "outputs": 0, "temporaries": 0, "code": 0}
    for size, elsewhere, what in _ALLOCATION.findall(allocations):
        kind = "outputs" if what.startswith(("output", "maybe-live-out")) else "temporaries"
        kind = "arguments" if what.startswith("parameter") else kind
        if not elsewhere and what != "thread-local":
            found[kind] += int(size)
    return found
