"""The step is built from the config alone, as the train command would build it."""

import importlib.util
import json
import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from ssl_jax import plan
from ssl_jax.core import chips, config
from ssl_jax.core.config import ConfigError
from ssl_jax.planning import estimate, roofline


def load(root, name, *overrides):
    return config.load(str(root / "configs" / name), overrides)


def test_state_and_batch_have_the_bytes_of_their_arrays(root):
    toy = load(root, "data2vec2/image.py:toy")
    made = plan.program(toy, "h100:1")
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(made.state.params))
    held = made.held()
    assert held["parameters"] == 4 * count
    assert held["optimizer"] >= 2 * held["parameters"]  # two moments, and counters
    assert 0 < held["extra"] <= held["parameters"]  # the teacher's average
    assert held["batch"] == 4 * (16 * 16 * 3 + 4 + 4)
    assert made.batch["image"] == jax.ShapeDtypeStruct((4, 16, 16, 3), "uint8")


def test_a_frozen_teacher_counts_in_memory_up_to_its_aligned_block(root, monkeypatch):
    monkeypatch.chdir(root)  # its config stands for a run
    toy = load(root, "dmae/image.py:toy", "config.precision=auto")
    made = plan.program(toy, "h100:1")
    teacher = made.state.extra["frozen"]["teacher"]["encoder"]
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(teacher))
    assert made.held()["extra"] == size > 0
    kernel = teacher["blocks"]["mlp"]["up"]["kernel"]
    assert len(kernel) == 1 and kernel.dtype == "bfloat16" and "final_norm" not in teacher


def test_an_accelerator_computes_in_bfloat16_and_a_tpu_loops_over_its_layers(root):
    toy, one = load(root, "mae/image.py:toy", "config.precision=auto"), jax.devices()[:1]
    on = {name: str(plan.program(toy, name, one).trace()) for name in ("v5e:1x1", "cpu:1")}
    assert "bf16[" in on["v5e:1x1"] and "bf16[" not in on["cpu:1"]
    assert "unroll=2" not in on["v5e:1x1"] and "unroll=2" in on["cpu:1"]


def test_shapes_come_from_the_config(root):
    made = plan.program(load(root, "hubert/audio.py", "config.data.batch_size=2"), "h100:1")
    assert made.batch["audio"].shape == (2, 250_000)
    assert made.batch["units"].shape == (2, 1, round(15.625 * 100))
    spoken = plan.program(load(root, "ctc/speech.py:toy"), "cpu:1")
    assert spoken.batch["transcript"].shape[0] == spoken.batch["audio"].shape[0]


@pytest.mark.parametrize(
    ("name", "overrides", "by_hand"),
    [
        # computed from the papers' settings: three forward passes of the trained part and one of
        # the teacher, 24 T D^2 + 4 T^2 D a block, without norms, softmax and the optimizer
        ("mae/image.py:base", (), 59.0),
        pytest.param("data2vec/image.py:base", (), 140.7, marks=pytest.mark.slow),
        # 16 masks per image
        pytest.param("data2vec2/image.py:base", (), 413.4, marks=pytest.mark.slow),
        pytest.param(
            "data2vec2/audio.py:base",
            ("data.constant_seconds=False", "data.buckets=(15.605,)"),
            2270,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_work_of_an_example_is_that_of_the_papers_settings(root, name, overrides, by_hand):
    made = plan.program(load(root, name, "data.batch_size=1", *overrides), "cpu:1")
    assert made.flops() / 1e9 == pytest.approx(by_hand, rel=0.011)


@pytest.mark.slow
def test_compiled_step_has_memory_and_no_collective_on_one_device(root):
    made = plan.program(load(root, "mae/image.py:toy"), "cpu:1")
    compiled = made.compile()
    assert compiled.memory["arguments"] >= sum(made.held().values())
    assert compiled.memory["temporaries"] > 0
    assert compiled.collectives == []


@pytest.mark.parametrize(
    ("topology", "words"),
    [
        ("v5e:3x3", "there is no topology 'v5e:3x3'.*v5e:2x4"),
        ("v9:2x2", "there is no topology 'v9:2x2'.*v5e:1x1 to v5e:16x16.*h100:N"),
        ("h100:0", "there is no topology 'h100:0': use h100:8"),
        ("cpu:4096", "1 devices cannot stand in for 4096 chips.*device_count=4096"),
    ],
)
def test_a_topology_that_does_not_exist_is_named_with_those_that_do(root, topology, words):
    with pytest.raises(ConfigError, match=words):
        plan.program(load(root, "mae/image.py:toy"), topology)


def test_names_of_topologies():
    assert chips.topology("v5e:16x16").chips == 256
    two = chips.topology("2xv5p:2x2x4")
    assert (two.chip.name, two.shape, two.slices, two.chips) == ("v5p", "2x2x4", 2, 32)
    assert chips.of_device("NVIDIA H100 80GB HBM3").name == "h100"
    assert chips.of_device("TPU v5 lite").name == "v5e"
    assert chips.of_device("TPU v5").name == "v5p"
    assert chips.of_device("unheard of") is None
    assert chips.of_device("NVIDIA H100 PCIe") is None


def test_a_mesh_or_batch_that_does_not_fit_is_named(root):
    devices = np.array(jax.devices() * 8)  # in place of eight
    toy = "mae/image.py:toy"
    with pytest.raises(ValueError, match=r"config\.mesh .*does not divide 8 devices"):
        plan.program(load(root, toy, "config.mesh.fsdp=3"), "h100:8", devices)
    with pytest.raises(ValueError, match=r"config\.data\.batch_size 4 does not divide.*such as 8"):
        plan.program(load(root, toy), "h100:8", devices)
    one = load(root, toy, "config.train.accumulate=3")
    with pytest.raises(ConfigError, match=r"config\.train\.accumulate 3.*batch_size=3"):
        plan.program(one, "h100:1")


PROGRAM = """
import json, sys
from ssl_jax import plan
from ssl_jax.core import config
from ssl_jax.planning import collectives, estimate
for overrides in json.loads(sys.argv[3]):
    made = plan.program(config.load(sys.argv[1], overrides), sys.argv[2])
    done = made.compile()
    found = {"held": made.held(), "memory": done.memory, "flops": made.flops()}
    found["expected"] = collectives.totals(estimate.expected(made, 1))
    print(json.dumps(found | {"sent": collectives.totals(done.collectives)}))
"""


def compiled(root, name, topology, devices, *overrides):
    """Returns the findings for a config under each of the lists of overrides."""
    # libtpu ends the process if it finds the flag of the CPU compiler that conftest sets
    flags = os.environ["XLA_FLAGS"] if topology.startswith("cpu") else ""
    config = str(root / "configs" / name)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, config, topology, json.dumps(overrides)],
        cwd=root,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()[-len(overrides) :]]


@pytest.mark.slow
def test_shards_are_gathered_and_gradients_summed_on_eight_devices(root):
    batch = "config.data.batch_size=8"
    overrides = [batch], [batch, "config.mesh.fsdp=8"]
    whole, sharded = compiled(root, "mae/image.py:toy", "cpu:8", 8, *overrides)
    # every chip reduces the gradient of each parameter, once
    assert whole["sent"]["all-reduce"]["bytes"] >= whole["held"]["parameters"]
    assert whole["sent"]["all-reduce"]["bytes"] < 1.5 * whole["held"]["parameters"]
    assert "all-gather" not in whole["sent"]
    assert sharded["sent"]["all-gather"]["bytes"] > 0
    assert sharded["held"]["parameters"] < 0.6 * whole["held"]["parameters"]
    assert sharded["flops"] == whole["flops"]
    for found in (whole, sharded):
        # an all-reduce in place of reduce-scatter, which this compiler lacks
        sent, rules = (
            sum(row["sent"] for row in found[name].values()) for name in ("sent", "expected")
        )
        assert 0.6 * sent < rules < 1.2 * sent, found


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_step_compiles_for_a_tpu_that_is_not_there(root):
    batch = "config.data.batch_size=8"
    overrides = [batch, "config.mesh.fsdp=2"]
    (found,) = compiled(root, "mae/image.py:toy", "v5e:2x2", 1, overrides)
    assert found["memory"]["temporaries"] > 0
    assert found["sent"]["all-gather"]["bytes"] > 0


def test_the_compilers_word_that_a_step_does_not_fit_is_taken():
    class TooLarge:
        def compile(self):
            raise jax.errors.JaxRuntimeError(self.words)

    program = TooLarge()
    program.words = (
        "RESOURCE_EXHAUSTED: E1000: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (33.87G) exceeds available HBM (15.75G)."
    )
    assert estimate.compiled_or_not(program) == (None, 33.87 * chips.GIB)
    program.words = "INTERNAL: another error"
    with pytest.raises(jax.errors.JaxRuntimeError, match="another error"):
        estimate.compiled_or_not(program)


def test_slices_send_each_other_their_parts_of_a_sum(root):
    config = load(root, "mae/image.py:toy", "config.data.batch_size=8", "config.mesh.slice=2")
    made = plan.program(config, "h100:8", np.array(jax.devices() * 8))
    one, two = (estimate.expected(made, 1, slices) for slices in (1, 2))
    (all_chips,), (inside, between) = one, two
    assert (all_chips.group, inside.group, between.group) == (8, 4, 2)
    assert all_chips.bytes == inside.bytes == 4 * between.bytes
    assert not inside.between and between.between
    chip = chips.CHIPS["v5e"]
    slow, fast = (roofline.communication_seconds(c, chip) / c.sent for c in (between, inside))
    assert slow / fast == pytest.approx(chip.link_rate / chip.network_rate)
