"""What a TPU's compiler says of a step before it makes machine code of it.

Machine code takes most of the time of a compilation, minutes for convolutions over waveforms, and
tells nothing of the step but its own size. Memory and collectives are settled before, and the
compiler writes them down where `flags` are the XLA_FLAGS of the process.
"""

import os
import re
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from ssl_jax.planning import aot

LAST = "*.after_optimizations_after_buffer_assignment.txt"  # written behind what is read
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+), (color \d+, )?page \d+, (.*):$", re.M)


def flags(folder: Path | str) -> str:
    """Returns the XLA_FLAGS under which the compiler writes down a step in an empty folder."""
    return f"--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit_run"


def compiled(program: aot.Program) -> aot.Compiled:
    """Returns a step's memory and collectives, as `program.compile()` and mostly sooner.

    The executable is None and compiling goes on in a thread, unless XLA_FLAGS are not those of
    `flags`. Leave such a process by os._exit.
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
    """Returns what the compiler has written down of a step in `folder`."""
    (text,) = folder.glob("*.after_optimizations.txt")
    (allocations,) = folder.glob("*.after_optimizations-buffer-assignment.txt")
    sent = program.sent(text.read_text(encoding="utf-8"))
    return aot.Compiled(None, memory(allocations.read_text(encoding="utf-8")), sent)


def memory(allocations: str) -> dict[str, int]:
    """Returns the bytes of a chip as `aot.memory`, of the text of the compiler's allocations.

    Those with a color lie elsewhere than in its large memory. Code is not made yet.
    """
    found = {"arguments": 0, "outputs": 0, "temporaries": 0, "code": 0}
    for size, elsewhere, what in _ALLOCATION.findall(allocations):
        kind = "outputs" if what.startswith(("output", "maybe-live-out")) else "temporaries"
        kind = "arguments" if what.startswith("parameter") else kind
        if not elsewhere and what != "thread-local":
            found[kind] += int(size)
    return found
