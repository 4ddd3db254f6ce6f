"""The time of compilation: what contains other spans counts once."""

import jax
import jax.numpy as jnp

from ssl_jax.core import compile_time, progress


def test_spans_within_another_count_once(monkeypatch):
    counted = compile_time._Counted()
    monkeypatch.setattr(compile_time, "_counted", counted)
    now = [0.0]
    monkeypatch.setattr(compile_time.time, "monotonic", lambda: now[0])
    for end, seconds in ((3.0, 1.0), (5.0, 1.0), (6.0, 5.0), (10.0, 2.0)):
        now[0] = end
        compile_time._add("/jax/core/compile/jaxpr_trace_duration", seconds)
    compile_time._add("/jax/another/duration", 7.0)
    assert compile_time.seconds() == 7.0


def test_a_compilation_is_counted_for_the_speed_of_work():
    compile_time.listen()
    compile_time.listen()  # once
    before = progress.compiling()
    jax.jit(lambda x: jnp.sin(x) + 1.2345)(1.0)
    assert progress.compiling() > before
