"""Checkpoints: exact, of this run only, kept by age and by metric, never partial."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_method as toy

from ssl_jax.core import config as config_lib
from ssl_jax.core.tree import named_leaves
from ssl_jax.engine import checkpoint, init_from, loop
from ssl_jax.engine.checkpoint import Checkpoints


def train(folder, mesh, started, first, last, config=None, hooks=(), **changes):
    """Trains (or resumes) the toy in a folder and returns the final state."""
    host, shardings, compiled = started
    config = config or toy.make_config()
    checkpoints = Checkpoints(folder, config)
    state = jax.device_put(host, shardings)
    if first:
        state = checkpoints.restore(state, shardings)
    logger = toy.open_logger(folder, first)
    batches = toy.stream(first, last)
    done = loop.fit(
        state, compiled, batches, mesh, toy.options(last, **changes), checkpoints, logger, hooks
    )
    checkpoints.close()
    logger.close()
    return done.state


def test_resume_gives_the_bits_of_an_uninterrupted_run(tmp_path, mesh, started):
    whole = train(tmp_path / "whole", mesh, started, 0, 8)
    train(tmp_path / "parts", mesh, started, 0, 5)
    config = toy.make_config(**{"data.workers": 2, "log.every": 7})
    resumed = train(tmp_path / "parts", mesh, started, 5, 8, config)
    assert toy.bits(resumed) == toy.bits(whole)


def test_a_saved_state_is_not_that_of_later_steps(tmp_path, mesh, started):
    host, shardings, compiled = started
    checkpoints = Checkpoints(tmp_path, toy.make_config())
    state, totals = jax.device_put(host, shardings), compiled.zeros()
    checkpoints.save(0, state)
    for n in range(3):
        state, totals, _ = compiled.run(state, totals, toy.rows(n))
    jax.block_until_ready(state)
    restored = checkpoints.restore(state, shardings)
    checkpoints.close()
    assert toy.bits(restored) == toy.bits(host)


def test_the_last_and_the_best_are_kept(tmp_path, mesh, started):
    config = toy.make_config(**{"checkpoint.best_metric": "valid/accuracy"})
    scores = {2: 0.1, 4: 0.9, 6: 0.5, 8: 0.4, 10: 0.3}
    hooks = [(lambda step, state: {"valid/accuracy": scores[step]}, 2), (lambda *_: None, 1)]
    changes = {"save_every": 2, "best_metric": "valid/accuracy"}
    train(tmp_path, mesh, started, 0, 10, config, hooks, **changes)
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [4, 8, 10]
    assert Checkpoints(tmp_path, config).best() == (4, 0.9)
    best = checkpoint.restore_params(tmp_path, "best")
    assert toy.bits(best) == toy.bits(checkpoint.restore_params(tmp_path, 4))
    assert toy.bits(best) != toy.bits(checkpoint.restore_params(tmp_path))


def test_a_new_best_is_saved_between_regular_saves_and_min_is_minded(tmp_path, mesh, started):
    config = toy.make_config(
        **{"checkpoint.best_metric": "valid/loss", "checkpoint.best_mode": "min"}
    )
    scores = {1: 5.0, 2: 3.0, 3: 4.0, 4: 6.0}
    hooks = [(lambda step, state: {"valid/loss": scores[step]}, 1)]
    train(tmp_path, mesh, started, 0, 4, config, hooks, save_every=4, best_metric="valid/loss")
    assert Checkpoints(tmp_path, config).best() == (2, 3.0)


def test_an_unknown_best_metric_is_named(tmp_path, mesh, started):
    hooks = [(lambda step, state: {"valid/loss": 1.0}, 1)]
    with pytest.raises(ValueError, match=r"best_metric 'valid/wer' .*: valid/loss"):
        train(tmp_path, mesh, started, 0, 2, hooks=hooks, best_metric="valid/wer")


def test_a_key_that_an_older_run_lacks_has_its_value_of_then():
    older = {"optim": {"lr": 0.1}}
    newer = {"lr": 0.1, "lr_rules": ()}
    plain, other = ({"optim": {**newer, "eps_inside": inside}} for inside in (False, True))
    checkpoint.check_same_config(older, plain, "runs/x")
    with pytest.raises(ValueError, match=r"config.optim.eps_inside: .absent. before, True now"):
        checkpoint.check_same_config(older, other, "runs/x")


def test_a_changed_config_is_refused_by_key_and_values(tmp_path, mesh, started):
    train(tmp_path, mesh, started, 0, 2)
    changed = toy.make_config(**{"optim.lr": 0.1, "log.every": 9, "mesh.data": 8})
    with pytest.raises(ValueError, match=r"config.optim.lr: 0.05 before, 0.1 now") as error:
        train(tmp_path, mesh, started, 2, 4, changed)
    assert "log.every" not in str(error.value) and "mesh" not in str(error.value)


def test_what_fits_a_run_to_other_chips_may_change(root):
    """As `plan --chips` and `--search` propose; the learning rate of another batch size may not."""
    path = str(root / "configs" / "data2vec2" / "audio.py")
    old = config_lib.load(path)
    fitting = ["mesh.fsdp=4", "train.accumulate=2", "method.encoder.remat=dots"]
    checkpoint.check_same_config(old, config_lib.load(path, fitting), "run")
    with pytest.raises(ValueError, match=r"config\.optim\.lr: 0\.00075 before, 0\.1 now"):
        checkpoint.check_same_config(old, config_lib.load(path, [*fitting, "optim.lr=0.1"]), "run")


def test_a_checkpoint_of_another_model_names_the_first_difference(tmp_path, mesh, started):
    train(tmp_path, mesh, started, 0, 2)
    host, shardings, _ = started
    checkpoints = Checkpoints(tmp_path, toy.make_config())
    wider = host.replace(params=host.params | {"decoder": jnp.zeros((9, toy.SAMPLES))})
    expected = r"another model: params/decoder is float32\(8, 16\) there and float32\(9, 16\)"
    with pytest.raises(ValueError, match=expected):
        checkpoints.restore(wider, shardings)
    fewer = host.replace(extra={})
    with pytest.raises(ValueError, match=r"extra/teacher/encoder/bias is .* there and absent"):
        checkpoints.restore(fewer, shardings)


def test_a_half_written_checkpoint_is_ignored_and_cleaned(tmp_path, mesh, started):
    state = train(tmp_path, mesh, started, 0, 5)
    half = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "params").write_text("half")
    checkpoints = Checkpoints(tmp_path, toy.make_config())
    assert checkpoints.latest() == 5
    checkpoints.save(9, state)
    checkpoints.close()
    assert not half.exists() and Checkpoints(tmp_path, toy.make_config()).latest() == 9


def test_parameters_are_read_without_the_run(tmp_path, mesh, started):
    state = train(tmp_path, mesh, started, 0, 5)
    params = checkpoint.restore_params(tmp_path)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(params))
    assert toy.bits(params) == toy.bits(state.params)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 3: it has \[5\]"):
        checkpoint.restore_params(tmp_path, 3)
    with pytest.raises(FileNotFoundError, match=r"is not a run folder"):
        checkpoint.restore_params(tmp_path / "nowhere")


def test_a_new_run_starts_from_equal_paths_and_shapes(tmp_path, mesh, started):
    source = train(tmp_path, mesh, started, 0, 5)
    host, shardings, _ = started
    fresh = jax.device_put(host, shardings)
    params = {"encoder": fresh.params["encoder"], "head": jnp.ones(3), "decoder": jnp.ones(3)}
    merged, extra, loaded, left = init_from.load(tmp_path, params, fresh.extra)
    assert loaded == ["encoder/bias", "encoder/kernel"] and left == ["decoder", "head"]
    assert toy.bits(merged["encoder"]) == toy.bits(source.params["encoder"])
    assert toy.bits(extra["teacher"]["encoder"]) == toy.bits(source.params["encoder"])
    assert merged["decoder"].shape == (3,)
    wide = {"encoder": {"bias": jnp.ones(99), "kernel": params["encoder"]["kernel"]}}
    with pytest.raises(ValueError, match=r"encoder/bias has the shape .* there and \(99,\) here"):
        init_from.load(tmp_path, wide, {})
    with pytest.raises(ValueError, match=r"config.init_from .* has no parameter of this model"):
        init_from.load(tmp_path, {"head": jnp.ones(3)}, {})


def test_a_teacher_is_inherited_on_request(tmp_path, mesh, started):
    source = train(tmp_path, mesh, started, 0, 5)
    host, shardings, _ = started
    fresh = jax.device_put(host, shardings)
    params, extra, *_ = init_from.load(tmp_path, fresh.params, fresh.extra, inherit=True)
    assert toy.bits(params) == toy.bits(source.params)
    assert toy.bits(extra) == toy.bits(source.extra) != toy.bits({"teacher": source.params})
    with pytest.raises(ValueError, match=r"config.init_extra is True, but .* no teacher"):
        init_from.load(tmp_path, fresh.params, {"queue": jnp.ones(3)}, inherit=True)


def test_a_run_starts_from_a_map_of_prefixes_to_runs(tmp_path, mesh, started):
    source = train(tmp_path, mesh, started, 0, 5)
    host, shardings, _ = started
    fresh = jax.device_put(host, shardings)
    both = {"audio": fresh.params["encoder"], "video": fresh.params["encoder"]}
    params, teacher = {"encoder": both, "head": jnp.ones(3)}, {"teacher": {"encoder": both}}
    given = {"encoder/video": str(tmp_path)}
    merged, extra, loaded, left = init_from.load(given, params, teacher)
    assert loaded == ["encoder/video/bias", "encoder/video/kernel"]
    assert left == ["encoder/audio/bias", "encoder/audio/kernel", "head"]
    for tree in (merged, extra["teacher"]):
        assert toy.bits(tree["encoder"]["video"]) == toy.bits(source.params["encoder"])
        assert toy.bits(tree["encoder"]["audio"]) == toy.bits(fresh.params["encoder"])
    _, extra, *_ = init_from.load(given, params, teacher, inherit=True)
    moved = extra["teacher"]["encoder"]["video"]
    assert toy.bits(moved) == toy.bits(source.extra["teacher"]["encoder"])
    with pytest.raises(ValueError, match=r"init_from.encoder/vido: .* did you mean 'encoder/v"):
        init_from.load({"encoder/vido": str(tmp_path)}, params, {})
    with pytest.raises(ValueError, match=r"has no parameter under 'head/a' nor 'head'"):
        init_from.load({"head/a": str(tmp_path)}, {"head": {"a": {"b": jnp.ones(3)}}}, {})
    wide = {"encoder": {"video": {"bias": jnp.ones(99)}}}
    with pytest.raises(ValueError, match=r"init_from.encoder/video .*: encoder/video/bias has"):
        init_from.load(given, wide, {})


def test_the_best_mode_is_checked(tmp_path):
    with pytest.raises(ValueError, match=r"config.checkpoint.best_mode is 'high'"):
        Checkpoints(tmp_path, toy.make_config(**{"checkpoint.best_mode": "high"}))


def test_every_array_of_the_state_is_saved(tmp_path, mesh, started):
    host, shardings, _ = started
    odd = jax.tree.map(lambda x: x + 1 if x.dtype == np.float32 else x, host)
    checkpoints = Checkpoints(tmp_path, toy.make_config())
    checkpoints.save(3, jax.device_put(odd, shardings))
    restored = checkpoints.restore(host, shardings)
    assert len(named_leaves(restored)) == len(named_leaves(host))
    assert toy.bits(restored) == toy.bits(odd)
