"""The benchmarks run, measure what they claim, and meet their limits."""

import functools
import importlib
import json

import jax
import numpy as np
import pytest

from experiments.benchmarks import (
    amortization,
    checkpoint,
    elastic_step,
    extraction,
    layers_kept,
    loop,
    recipes,
    side_by_side,
    startup,
    step_vs_torch,
    stepping,
    tokens,
)
from experiments.data2vec2 import time_to_accuracy
from ssl_jax.core import config as config_lib
from ssl_jax.methods import beats
from ssl_jax.nn import elastic_space
from ssl_jax.planning import batch_shapes


def test_loop_report_is_a_table():
    report = {"bare_steps_per_second": 10.0, "engine_steps_per_second": 9.8, "ratio": 0.98}
    assert loop.table(report).splitlines()[-1] == "| ratio | 0.98 |"


def test_small_config_is_the_quickstart_s_size():
    config = loop.small_config(depth=3)
    assert config.is_locked
    assert config.method.encoder.depth == config.method.targets.layers == 3
    assert config.method.encoder.width == loop.ENCODER["width"]


def test_jobs_take_turns_and_their_results_must_be_equal(tmp_path, monkeypatch):
    order, values = [], iter([[0.5]] * 5 + [[0.6]])

    program = side_by_side.Program(tmp_path, {"seeds": 3}, {"seeds": 1}, ("values",))

    def run(folder, jobs, program, size):
        (folder / "corpus").mkdir(parents=True, exist_ok=True)
        order.append((folder.name, jobs, size["seeds"]))
        return {"seconds": 12.0 / jobs, "results": next(values)}

    monkeypatch.setattr(side_by_side, "run", run)
    report = side_by_side.measure(tmp_path, 2, 2, program)
    turns = [("0-1", 1, 3), ("0-2", 2, 3), ("1-2", 2, 3), ("1-1", 1, 3)]
    assert order == [("first", 1, 1), *turns]
    assert report["seconds"] == {"1": 12.0, "2": 6.0} and report["ratio"] == 2.0
    values = iter([[0.5], [0.5], [0.6]])
    with pytest.raises(ValueError, match="the results differ between 1 and 2 jobs"):
        side_by_side.measure(tmp_path / "other", 2, 1, program)


@pytest.mark.slow
def test_a_save_and_a_restore_are_timed():
    batch = loop.make_batches(1, 4, 16_000)[0]
    report = checkpoint.measure(loop.small_config(depth=1), batch, saves=2)
    seconds = report["seconds"]
    assert 0 < seconds["blocked"] < seconds["written"] and seconds["restore"] > 0
    assert seconds["step beside"] > 0 and np.isfinite(seconds["extra"])
    assert report["share"] == pytest.approx(seconds["blocked"] / seconds["step"], rel=0.1)
    assert "blocked" in checkpoint.line(report) and report["gigabytes"] >= 0


def test_steps_take_turns_and_a_loss_that_is_not_finite_ends_them():
    order = []
    runs = {name: lambda name=name: order.append(name) or 0.5 for name in ("a", "b")}
    seconds, cores = stepping.in_turns(runs, 2)
    assert order == [*"aabb", *"aabb", *"aabb"]
    assert [len(times) for times in (*seconds.values(), *cores.values())] == [2] * 4
    with pytest.raises(SystemExit, match="the loss of c is not finite"):
        stepping.in_turns({"c": lambda: float("nan")}, 1)


def test_time_to_an_accuracy_is_read_between_the_points_of_a_curve():
    curve = {"step": [10, 20], "accuracy": [0.5, 0.4]}
    assert time_to_accuracy.crossing(curve, 0.4, start=0.3) == pytest.approx(5.0)
    assert time_to_accuracy.crossing(curve, 0.3, start=0.3) == 0.0
    assert time_to_accuracy.crossing(curve, 0.6, start=0.3) is None
    curves = {"a": [curve], "b": [{"step": [10], "accuracy": [0.46]}]}
    assert time_to_accuracy.between(0.42, curves) == [0.44, 0.46, 0.48, 0.5]
    found = time_to_accuracy.times(curves, {"a": 2.0, "b": 1.0}, 0.48, {"a": 0.3, "b": 0.3})
    assert found["b"] == [None] and found["a"] == pytest.approx([18.0])


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0.001, "under 1 min"), (0.3, "18 min"), (5.25, "5.2 h"), (100, "4.2 days"), (3e4, "3 years")],
)
def test_a_duration_has_the_unit_that_reads_best(hours, text):
    assert recipes.text(hours) == text


def test_the_hours_of_two_cores_are_operations_at_a_measured_rate():
    row = {"flops": 2 * recipes.rate(small=False), "steps": 1800}
    assert recipes.laptop_hours("configs/hubert/audio.py:base", row) == pytest.approx(1.0)
    assert recipes.laptop_hours("configs/data2vec2/audio.py:own", row) > 1.5  # a slower rate


@pytest.mark.slow
def test_a_recipe_is_planned_with_the_batch_that_it_has(monkeypatch):
    monkeypatch.setattr(recipes, "TOPOLOGIES", {"h100:1": "one H100"})
    found = recipes.planned("configs/mae/image.py:toy", 0)
    assert found["steps"] == 4 and found["micro_batches"] == {"h100:1": 1}
    assert found["flops"] > 0 and found["hours"]["h100:1"] >= 0
    with pytest.raises(ValueError, match=r"image\.py:base: 1600 epochs"):
        recipes.planned("configs/mae/image.py:base", 0)


def test_the_cost_of_a_mask_is_relative_to_one_alone():
    assert amortization.relative({1: 4.0, 2: 6.0, 4: 8.0}) == {"1": 1.0, "2": 0.75, "4": 0.5}


def test_a_part_of_the_systems_keeps_the_others_of_the_same_machine():
    same = {"machine": "a", "precision": "float32", "jax": "1", "torch": "2"}
    old, new = same | {"systems": {"x": 1, "y": 2}}, same | {"systems": {"y": 3}}
    assert step_vs_torch.merge(old, new)["systems"] == {"x": 1, "y": 3}
    assert step_vs_torch.merge(old | {"machine": "b"}, new)["systems"] == {"y": 3}


def test_the_systems_of_the_step_benchmark_have_the_published_sizes():
    config = step_vs_torch.base_config("data2vec2_image", 4, 8)
    assert step_vs_torch.visible_tokens(config, step_vs_torch.PATCHES) == 39
    assert config.method.targets.layers == 2  # 4 blocks without the two of the prenet
    one, eight = (
        step_vs_torch.flops(
            "data2vec2_image", step_vs_torch.base_config("data2vec2_image", 4, m), 2
        )
        for m in (1, 8)
    )
    assert one < eight < 8 * one


@pytest.mark.parametrize("system", step_vs_torch.SYSTEMS)
def test_each_system_has_the_batch_that_its_config_reads(system):
    config = step_vs_torch.of_batch(system, step_vs_torch.base_config(system, 4, 2), 3)
    module = importlib.import_module(f"ssl_jax.methods.{config.method.name}")
    method = module.make(config.method, precision="float32", sample_rate=16000, num_classes=0)
    batch = step_vs_torch.make_batch(system, 3)
    counted = batch_shapes.global_batch(config, method)
    assert {n: (x.shape, x.dtype) for n, x in counted.items()} == {
        name: (batch[name].shape, batch[name].dtype) for name in method.batch
    }


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize("system", ["hubert_audio", "wav2vec2_audio"])
def test_speech_systems_step_in_torch(system):
    config, batch = (
        step_vs_torch.base_config(system, 1, 1),
        step_vs_torch.make_batch(system, 1),
    )
    step = step_vs_torch.theirs(system, config, batch, compiled=False)
    first = step()
    # of 100 units, or of a frame among 100 others, plus the diversity term or penalty
    assert 4.0 < first < 8.0, first
    assert np.isfinite(step())


def test_a_store_of_tokens_pays_after_as_many_passes_as_its_making_costs():
    seconds = {"labels alone": 0.6, "random": 1.0, "tokenizer": 1.5, "stored": 1.0}
    found = tokens.worth(seconds, 900)
    assert found["passes"] == 1.2 and found["share"] == 0.333
    assert found["tokens_per_second"]["stored"] == 900 and found["megabytes_per_hour"] == 0.36
    assert tokens.worth(seconds | {"tokenizer": 1.0}, 900)["passes"] is None


def test_the_table_of_tokens_says_when_a_store_pays(monkeypatch):
    seconds = {"labels alone": 0.6, "random": 1.0, "tokenizer": 1.5, "stored": 1.0}
    report = {"seconds": seconds, "rows": 8, "depth": 12, "machine": "a machine"}
    monkeypatch.setattr(tokens.results, "read", lambda name: report | tokens.worth(seconds, 900))
    rows = {row["BEATs"]: row["remark"] for row in tokens.rows()}
    assert rows["a step with stored tokens"].endswith("pays after 1.2 passes over the data")
    assert rows["a step with the tokenizer"] == "which takes 33% of it"


def test_labels_of_every_source_have_their_batch():
    for labels in tokens.LABELS:
        config = tokens.config_of(labels, 1)
        method = beats.make(config.method, precision="float32", sample_rate=16000, num_classes=0)
        batch = tokens.batch_of(labels, 1)
        assert set(method.batch) <= set(batch)
        assert list(method.frozen) == ["tokenizer"] * (labels == "tokenizer")
        assert config.method.labels == labels


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "low", "high"),
    [("beats", 6, 9), ("beats_tokenizer", 0.5, 2), ("best_rq", 8, 12)],
)
def test_sound_systems_have_the_parameters_of_ours_and_step_in_torch(system, low, high):
    config, batch = step_vs_torch.base_config(system, 1, 1), step_vs_torch.make_batch(system, 1)
    model, _ = step_vs_torch.of_sounds(system, config, batch["audio"])
    module = importlib.import_module(f"ssl_jax.methods.{system}")
    method = module.make(config.method, precision="float32", sample_rate=16000, num_classes=0)
    params, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == sum(x.size for x in jax.tree.leaves(params))
    step = step_vs_torch.theirs(system, config, batch, compiled=False)
    first = step()
    assert low < first < high and step() < first


@pytest.mark.interop
@pytest.mark.slow
def test_a_subnet_is_trained_in_torch_by_slices_alone():
    torch = pytest.importorskip("torch")
    config = step_vs_torch.base_config("lighthubert_audio", 1, 1)
    config = config_lib.change(config, {"method.targets.layers": 1})
    model = step_vs_torch.elastic(config, largest=False)
    model.teacher.encoder.layers = model.teacher.encoder.layers[:1]
    model.choices = model.choices._replace(embed=(512,), heads=(8,), ratios=(3.5,))
    audio, mask = torch.randn(1, 4000), torch.zeros(1, 12, dtype=torch.bool)
    mask[0, 3:7] = True
    loss = model(audio, mask, torch.arange(3, 7)[None])
    loss.backward()
    block = model.student.encoder.layers[0]
    used = block.feed_forward.intermediate_dense.weight.grad.abs().sum(1).nonzero()[:, 0]
    space = elastic_space.BASE
    np.testing.assert_array_equal(used, space.hidden_units(512, 3.5))
    assert block.attention.q_proj.weight.grad.abs().sum(1).nonzero().max() == 8 * 64 - 1
    assert (
        np.isfinite(loss.item())
        and model.teacher.encoder.layers[0].attention.q_proj.weight.grad is None
    )


@pytest.mark.slow
def test_a_gradient_without_the_layers_that_nobody_reads_takes_less_memory():
    path, changes = "mae/image.py:toy", ("method.encoder.depth=12",)
    with layers_kept.keeping_all():
        whole = layers_kept.gradient(path, changes)
    assert layers_kept.gradient(path, changes) < whole


def test_a_row_without_a_compiled_arm_is_text():
    row = {"seconds": {"ours": 2.0, "eager": 3.0}, "ratio": 1.5}
    assert step_vs_torch.line(row) == "ours 2.00 s, eager 3.00 s; 1.50 times the better torch"


@pytest.mark.slow
def test_a_step_of_a_subnet_is_timed_against_one_of_the_whole():
    arms = {"whole": ("toy", ("method.sample=full",)), "subnet": ("toy", ())}
    report = elastic_step.measure(2, 0.5, 2, arms)
    both = report["seconds"]
    assert set(both) == {"whole", "subnet"} and min(both.values()) > 0
    assert report["ratio"] == pytest.approx(both["subnet"] / both["whole"], rel=0.1)
    (row,) = elastic_step.rows(report)
    assert row["step"] == "2 clips of 0.5 s" and row["at most"] == "1.15"


@pytest.mark.slow
def test_both_loops_run_the_same_steps(monkeypatch):
    bench = loop.Bench(rows=8, steps=20)
    before = int(bench.state.step)
    assert bench.bare() > 0
    assert int(bench.state.step) == before + 21
    assert bench.engine() > 0
    # a loaded machine may be slow, but the engine never takes a multiple of the bare loop's time
    monkeypatch.setattr(loop, "Bench", lambda rows, steps: bench)  # already compiled
    report = loop.measure(rows=8, steps=20, rounds=3)
    assert report["ratio"] > 0.7, report


@pytest.mark.slow
def test_warm_cache_compiles_less_and_depth_does_not_matter(monkeypatch):
    for name in ("XLA_FLAGS", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(name, raising=False)  # compiled and cached as for users
    report = startup.measure(depths=(2, 8))
    seconds = report["seconds"]
    for depth in ("2", "8"):
        assert seconds[depth]["warm"]["compile"] < 0.7 * seconds[depth]["cold"]["compile"]
        assert seconds[depth]["cold"]["first_step"] > seconds[depth]["cold"]["import"] > 0
    # four times as deep; an unrolled stack would take about four times as long
    assert report["compile_ratio_deepest_to_shallowest"] < 1.7, json.dumps(report)
    assert startup.table(report).count("\n") == 3


@pytest.mark.slow
def test_a_run_in_a_process_of_its_own_answers_and_its_end_is_told():
    makers = {"a": functools.partial(_counter, 3), "b": functools.partial(_counter, 1)}
    with stepping.processes(makers) as runs:
        assert [runs["a"]()[0] for _ in range(3)] == [1.0, 2.0, 3.0]
        loss, seconds, cores = runs["b"]()
        assert loss == 1.0 and seconds >= 0 and cores >= 0
        runs["b"]()
        with pytest.raises(SystemExit, match="the process of b ended"):
            runs["b"]()


def _counter(steps):
    """A run that counts its calls and fails after `steps` + 1 of them."""
    calls = iter(range(1, steps + 2))
    return lambda: float(next(calls))


@pytest.mark.interop
def test_extraction_gives_a_rate_for_every_arm():
    found = extraction.measure(1, 1.0, depth=1, rounds=1, compiled=False)
    rates = found["hours_per_second"]
    assert set(rates) == {"ours", "eager"} and min(rates.values()) > 0
    assert found["ratio"] == pytest.approx(rates["ours"] / rates["eager"], rel=0.05)
