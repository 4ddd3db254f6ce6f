"""Traces of a few steps, and the time per scope: by hand, from text, and of a real run."""

import json
import time

import jax
import jax.numpy as jnp
import pytest
import toy_method as toy
import trace_texts as texts

from ssl_jax.core.mesh import make_mesh
from ssl_jax.core.types import Method, Output
from ssl_jax.engine import loop, profile, scopes
from ssl_jax.engine.checkpoint import Checkpoints

SCOPES = ("encoder", "targets", "loss")

# a step as XLA prints it: a fusion of the forward pass, its gradient, the body of a loop, and
# an instruction without a scope
PROGRAM = """HloModule jit_run, is_scheduled=true, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %sine.1 = f32[4]{0} sine(%p), metadata={op_name="jit(run)/jvp(targets)/sin"}
  %cosine.1 = f32[4]{0} cosine(%sine.1), metadata={op_name="jit(run)/jvp(targets)/encoder/cos"}
  ROOT %copy.9 = f32[4]{0} copy(%cosine.1)
}

%body (c: (s32[], f32[4])) -> (s32[], f32[4]) {
  %c = (s32[], f32[4]{0:T(128)}) parameter(0)
  %gte = f32[4]{0:T(128)} get-tuple-element(%c), index=1
  %tanh.2 = f32[4]{0:T(128)S(1)} tanh(%gte), \
metadata={op_name="jit(run)/transpose(jvp(encoder))/while/body/checkpoint/tanh" stack_frame_id=3}
  ROOT %tuple = (s32[], f32[4]{0:T(128)}) tuple(%gte, %tanh.2)
}

ENTRY %main.7 (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %dot.1 = f32[4]{0} dot(%x, %x), metadata={op_name="jit(run)/jvp(encoder)/dot_general"}
  %wrapped = f32[4]{0} fusion(%dot.1), kind=kLoop, calls=%fused
  %while.3 = (s32[], f32[4]{0}) while(%wrapped), condition=%cond, body=%body, \
metadata={op_name="jit(run)/transpose(jvp(encoder))/while"}
  %norm = f32[]{:T(128)} reduce(%x), to_apply=%add, metadata={op_name="jit(run)/reduce_sum"}
  ROOT %sqrt.5 = f32[4]{0} sqrt(%wrapped), metadata={op_name="jit(run)/optimizer/sqrt"}
}
"""


def test_an_operation_counts_for_the_outermost_scope_of_its_path():
    known = (*SCOPES, "optimizer")
    assert scopes.scope_of("jit(run)/jvp(targets)/encoder/mul", known) == ("targets", "forward")
    path = "jit(run)/while/body/transpose(jvp(vmap(encoder)))/rematted/add"
    assert scopes.scope_of(path, known) == ("encoder", "backward")
    assert scopes.scope_of("jit(run)/encoder2/transpose", known) == ("other", "forward")


def test_the_text_of_a_program_says_the_scope_of_every_operation():
    found = scopes.labels(PROGRAM, (*SCOPES, "optimizer"))
    assert found["dot.1"] == ("encoder", "forward")
    assert found["wrapped"] == ("targets", "forward")  # its result is a copy without a scope
    assert found["tanh.2"] == ("encoder", "backward")
    assert found["while.3"] is None
    assert found["norm"] == ("other", "forward")
    assert found["sqrt.5"] == ("optimizer", "forward")


def test_operations_that_run_at_once_share_the_time():
    spans = [(0, 10, "a"), (5, 15, "b"), (14, 30, scopes.WAIT), (40, 99, "a")]
    found = scopes._shares(spans, 2, 50)
    expected = {"a": 3 + 2.5 + 10, "b": 2.5 + 5, scopes.WAIT: 15, scopes.IDLE: 10}
    assert found == pytest.approx(expected)
    assert sum(found.values()) == 48


def plane(name, **lines):
    """Returns a plane of an XSpace in text; a line is (name, start, duration, {stat: text}) ..."""
    names, stats, out = [], ["unused"], []
    for line, events in lines.items():
        rows = []
        for event, start, duration, found in events:
            names += [] if event in names else [event]
            stats += [key for key in found if key not in stats]
            given = "".join(
                f'stats {{ metadata_id: {stats.index(k)} str_value: "{v}" }} '
                for k, v in found.items()
            )
            at = f"offset_ps: {start}000 duration_ps: {duration}000"
            rows.append(f"events {{ metadata_id: {names.index(event) + 1} {at} {given}}}")
        out.append(f'lines {{ name: "{line.replace("_", " ")}" {" ".join(rows)} }}')
    for kind, known, first in (("event", names, 1), ("stat", stats, 0)):
        out += [
            f'{kind}_metadata {{ key: {i} value {{ id: {i} name: "{n}" }} }}'
            for i, n in enumerate(known, first)
        ]
    return f'planes {{ name: "{name}" {" ".join(out)} }}'


HOST = plane(
    "/host:CPU",
    python=[("data wait", 0, 50, {}), ("train", 50, 5, {}), ("train", 500, 5, {})],
)


def test_a_trace_of_a_tpu_names_operations_by_their_text():
    modules = [("jit_run(7)", 100, 300, {}), ("jit_evaluate(8)", 420, 40, {})]
    modules.append(("jit_run(7)", 600, 400, {}))
    ops = [
        ("%dot.1 = f32[4]{0} dot(%x, %x)", 100, 100, {}),
        ("%while.3 = (s32[], f32[4]{0}) while(%wrapped)", 200, 200, {}),
        ("%tanh.2 = f32[4] tanh(%gte)", 210, 180, {}),
        ("%dot.1 = f32[4]{0} dot(%x, %x)", 420, 40, {}),
        ("%sqrt.5 = f32[4]{0} sqrt(%wrapped)", 600, 400, {}),
    ]
    tpu = plane("/device:TPU:0", XLA_Modules=modules, XLA_Ops=ops, Steps=[("1", 100, 900, {})])
    data = jax.profiler.ProfileData.from_text_proto(HOST + tpu)
    table = scopes.attribute(data, [PROGRAM], SCOPES)
    ms = 1e-6 / 2  # per step, from the nanoseconds of two
    assert table.scopes["encoder"] == pytest.approx({"forward": 100 * ms, "backward": 180 * ms})
    assert table.scopes["optimizer"]["forward"] == pytest.approx(400 * ms)
    assert table.scopes[scopes.OUTSIDE]["forward"] == pytest.approx(40 * ms)
    assert (table.data_wait, table.idle) == pytest.approx((50 * ms, 230 * ms))
    assert (table.step, table.steps, table.devices) == (pytest.approx(1000 * ms), 2, 1)


def test_a_trace_of_two_gpus_and_two_programs_keeps_them_apart():
    # the scope of dot.1 in the other program
    other = PROGRAM.replace("jvp(encoder)/dot_general", "jvp(loss)/dot_general")

    def run(op, start, program):
        stats = {"hlo_op": op, "hlo_module": "jit_run", "program_id": program}
        return (f"kernel_{op}", start, 100, stats)

    streams = [run("dot.1", 100, "9"), run("dot.1", 600, "4"), ("memcpy", 700, 50, {})]
    planes = [plane(f"/device:GPU:{i}", Stream=streams) for i in range(2)]
    data = jax.profiler.ProfileData.from_text_proto(HOST + "".join(planes))
    table = scopes.attribute(data, [PROGRAM, other], SCOPES)
    assert table.devices == 2
    assert table.scopes["encoder"]["forward"] == pytest.approx(100e-6 / 2)
    assert table.scopes["loss"]["forward"] == pytest.approx(100e-6 / 2)
    with pytest.raises(ValueError, match="shows no operation of a step"):
        scopes.attribute(jax.profiler.ProfileData.from_text_proto(HOST), [PROGRAM], SCOPES)


def test_two_chips_of_a_tpu_as_their_planes_have_it():
    """One begins 10 us after the other; everything other than operations is ignored."""
    space = texts.HOST + texts.tpu(0) + texts.tpu(1, late=10)
    table = scopes.attribute(jax.profiler.ProfileData.from_text_proto(space), [PROGRAM], SCOPES)
    assert (table.steps, table.devices, table.step) == (1, 2, pytest.approx(0.080))
    assert table.scopes["encoder"] == pytest.approx({"forward": 0.010, "backward": 0.020})
    assert table.scopes["optimizer"] == pytest.approx({"forward": 0.010, "backward": 0.0})
    assert table.scopes[scopes.OTHER] == table.scopes["targets"] == {"forward": 0, "backward": 0}
    assert (table.data_wait, table.idle) == pytest.approx((0.020, 0.020))


def test_a_gpu_that_runs_a_graph_of_kernels_tells_it_by_the_call():
    """A stream shows only kernels: the one named after a call or loop stands for all of it."""
    program = PROGRAM.replace("kind=kLoop, calls=%fused", "to_apply=%fused").replace(
        "fusion(%dot.1)", "call(%dot.1)"
    )
    path = "jit(run)/transpose(jvp(loss))/mul"
    kernels = [(30, "wrapped", ""), (40, "while.3", ""), (50, "unheard.of", path), (60, "", "")]
    data = jax.profiler.ProfileData.from_text_proto(texts.HOST + texts.gpu(*kernels))
    table = scopes.attribute(data, [program], SCOPES)
    assert table.scopes["targets"]["forward"] == pytest.approx(0.010)
    assert table.scopes["encoder"]["backward"] == pytest.approx(0.010)
    assert table.scopes["loss"]["backward"] == pytest.approx(0.010)
    assert table.scopes[scopes.OTHER]["forward"] == pytest.approx(0.010)
    assert table.idle == pytest.approx(0.010)


def scoped_method() -> Method:
    """Returns the toy with named scopes that contain work: its encoder is 8 products."""
    made = toy.make_method()

    def init(key, batch):
        return {"encoder": {"kernel": 0.1 * jax.random.normal(key, (64, 64))}}, {}

    def loss(params, extra, batch, streams, train):
        kernel = params["encoder"]["kernel"]
        with jax.named_scope("encoder"):
            x = jnp.tile(batch["audio"].astype(jnp.float32) / 100, (4, 4))
            step = jax.checkpoint(lambda x, _: (jnp.tanh(x @ kernel), None))
            x, _ = jax.lax.scan(step, x, None, length=8)
        with jax.named_scope("targets"):
            target = jax.lax.stop_gradient(jnp.sin(x @ kernel))
        with jax.named_scope("loss"):
            value = ((x - target) ** 2).mean()
        return Output(value, batch["weight"].sum(), {}, extra)

    options = {"init": init, "loss": loss, "update": lambda params, extra, step: extra}
    fields = {name: getattr(made, name) for name in ("features", "batch")}
    return Method(**options, **fields, rules=((".*", ()),), scopes=SCOPES)


def test_the_table_of_a_real_run(tmp_path, capsys):
    mesh = make_mesh({"data": -1}, jax.devices()[:1])
    method = scoped_method()
    state, _, compiled, _ = toy.start(mesh, method=method)

    def slow(n, batch):
        time.sleep(0.06 if n >= 3 else 0)  # a few are read ahead while the trace starts
        return batch

    options = toy.options(8, profile="3:8", scopes=method.scopes, save_every=100)
    checkpoints, logger = Checkpoints(tmp_path, toy.make_config()), toy.open_logger(tmp_path)
    loop.fit(state, compiled, toy.stream(0, 8, slow), mesh, options, checkpoints, logger)
    logger.close()
    checkpoints.close()
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    found = json.loads((tmp_path / "scopes.json").read_text())
    assert (found["first"], found["last"], found["steps"]) == (3, 8, 6)
    ways = found["scopes"]
    everything = sum(v for way in ways.values() for v in way.values())
    assert everything + found["data_wait"] + found["idle"] == pytest.approx(found["step"])
    encoder = ways["encoder"]
    assert min(encoder.values()) > 0
    assert ways["targets"]["backward"] == ways["update"]["backward"] == 0
    assert sum(encoder.values()) > ways["targets"]["forward"] + ways["loss"]["forward"] > 0
    assert ways["optimizer"]["forward"] > 0
    assert 70 > found["data_wait"] > 10
    text = (tmp_path / "scopes.txt").read_text()
    assert text in capsys.readouterr().err and "encoder" in text and "100.0%" in text


@pytest.mark.parametrize("spec", ["100", "10:5", "a:b", "0:3"])
def test_a_profile_range_is_checked(spec, tmp_path):
    with pytest.raises(ValueError, match=r"config.log.profile is .*100:110"):
        profile.parse_range(spec)
    assert profile.parse_range("100:110") == (100, 110)
    with pytest.raises(ValueError, match=r'ends after step 20: use one such as "18:20"'):
        profile.Profile("10:21", tmp_path, (), 20)
