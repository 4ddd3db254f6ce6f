"""The compiler's dump from before machine code is read if possible, else the compiled step."""

import pytest

from ssl_jax.planning import collectives, tpu_dump

ALLOCATIONS = """\
BufferAssignment:
allocation 0: size 512, page 0, thread-local:
 value: <774 or.918 @0> (size=512,offset=0): u32[]{:T(128)}
allocation 1: size 1000, page 0, parameter 35, shape |f32[32,160]| at ShapeIndex {}, maybe-live-out:
 value: <11391 param.56 @0> (size=1000,offset=0): f32[32,160]{2,1,0:T(8,128)}
allocation 2: size 300, page 0, parameter 0, shape |u32[2]| at ShapeIndex {}:
allocation 3: size 20, page 0, output shape is |(s32[], f32[8,512])|, maybe-live-out:
allocation 4: size 7, page 0, constant:
allocation 5: size 4000, page 0, preallocated-temp:
allocation 6: size 100000, color 1, page 0, preallocated-temp:
allocation 7: size 1, page 0, maybe-live-out:
"""
HLO = """\
ENTRY %main (a: f32[32]) -> f32[32] {
  %a = f32[32]{0} parameter(0)
  ROOT %sum = f32[32]{0} all-reduce(%a), replica_groups={{0,1}}
}
"""


class Program:
    """A program that takes long to compile, or fails to."""

    def __init__(self, error=None):
        self.error = error

    def compile(self):
        if self.error:
            raise self.error
        tpu_dump.time.sleep(5)

    def sent(self, text):
        return collectives.parse(text, 2)


def test_memory_is_that_of_the_large_one():
    found = tpu_dump.memory(ALLOCATIONS)
    assert found == {"arguments": 1300, "outputs": 21, "temporaries": 4007, "code": 0}


def test_what_is_written_down_is_enough(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", tpu_dump.flags(tmp_path))
    start = "module_0000.jit_run.cl_1"
    (tmp_path / f"{start}.after_optimizations.txt").write_text(HLO)
    allocations = tmp_path / f"{start}.after_optimizations-buffer-assignment.txt"
    allocations.write_text(ALLOCATIONS)
    (tmp_path / f"{start}.after_optimizations_after_buffer_assignment.txt").touch()
    found = tpu_dump.compiled(Program())
    assert found.executable is None
    assert found.memory == tpu_dump.memory(ALLOCATIONS)
    assert found.collectives == [collectives.Collective("all-reduce", 128, 2, 1)]


def test_an_error_of_the_compiler_is_raised(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", tpu_dump.flags(tmp_path))
    with pytest.raises(ValueError, match="does not fit"):
        tpu_dump.compiled(Program(ValueError("does not fit")))
