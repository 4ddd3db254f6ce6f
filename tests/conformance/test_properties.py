"""Properties that hold for every method, checked on the tiny form of every config."""

import functools
import re
from collections.abc import Callable

import cases
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssl_jax.core import tree
from ssl_jax.reports import meanings

STEPS = 60


@pytest.fixture(params=cases.toy_params())
def toy(request) -> cases.Toy:
    """Returns the tiny model of one config after another."""
    return cases.toy(request.param)


def _trainable(toy: cases.Toy) -> set[str]:
    frozen = toy.config.optim.frozen
    names = [name for name, _ in tree.named_leaves(toy.params)]
    return {name for name in names if not any(re.search(f, name) for f in frozen)}


def _run(toy: cases.Toy, batch: dict, step: int = 0) -> tuple:
    """Returns (Output, gradients of params and extra) of one step as numpy arrays.

    Each operation on an array of jax outside of a compiled function compiles for its shape.
    """
    streams = toy.streams(batch, step)
    return jax.device_get(toy.gradients(toy.params, toy.extra, batch, streams))


def _changed(x: np.ndarray, where: object, value: object) -> np.ndarray:
    """Returns a copy with x[where] = value."""
    x = x.copy()
    x[where] = value
    return x


def test_every_trainable_leaf_gets_a_gradient_and_teachers_none(toy):
    batch = toy.batch(2)
    total = None
    # layer drop and drop path may skip a block in one step, but hardly in four
    for step in range(4):
        _, (gradients, teacher) = _run(toy, batch, step)
        size = jax.tree.map(np.abs, gradients)
        total = size if total is None else jax.tree.map(np.add, total, size)
        for name, leaf in tree.named_leaves(teacher):
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                assert not np.any(leaf), f"a gradient flows into extra/{name}"
    for name, leaf in tree.named_leaves(total):
        if name not in _trainable(toy):
            continue
        assert np.all(np.isfinite(leaf)), name
        layers = leaf if "/blocks/" in name else leaf[None]
        for layer, part in enumerate(layers):
            assert np.any(part), f"no gradient reaches params/{name}, layer {layer}"


def test_overfits_two_examples(toy):
    batch = toy.batch(2)
    streams = toy.streams(batch)
    tx = optax.adam(3e-3)
    labels = {name: name in _trainable(toy) for name, _ in tree.named_leaves(toy.params)}
    if not all(labels.values()):
        mask = tree.map_named(lambda name, _: not labels[name], toy.params)
        tx = optax.chain(tx, optax.masked(optax.set_to_zero(), mask))

    @jax.jit
    def update(params, extra, gradients, opt_state, i):
        updates, opt_state = tx.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        return params, toy.method.update(params, extra, i + 1), opt_state

    params, extra, opt_state = toy.params, toy.extra, jax.jit(tx.init)(toy.params)
    losses = []
    for i in range(STEPS):
        output, (gradients, _) = toy.gradients(params, extra, batch, streams)
        params, extra, opt_state = update(params, output.extra, gradients, opt_state, jnp.int32(i))
        losses.append(float(output.loss))
    metrics = output.metrics
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.7 * losses[0], losses[:: STEPS // 10]
    if "accuracy" in metrics:
        correct, count = metrics["accuracy"]
        assert correct == count >= 2  # of tags, each counts


def test_rows_of_weight_zero_change_nothing(toy):
    few, many = toy.batch(2), toy.batch(4, seed=1)
    padded = {name: np.concatenate([few[name], many[name][2:]]) for name in few}
    padded["weight"][2:] = 0
    if "label" in padded:
        padded["label"][2:] = -1
    short, (short_grad, _) = _run(toy, few)
    long, (long_grad, _) = _run(toy, padded)
    cases.close((short.loss, short.weight), (long.loss, long.weight), 1e-5, 1e-5)
    cases.close(short.metrics, long.metrics, 1e-4, 1e-4)
    scale = max(np.abs(g).max() for g in jax.tree.leaves(short_grad))
    cases.close(short_grad, long_grad, 1e-5 * scale, 1e-3)


def test_a_batch_of_weight_zero_alone_is_finite(toy):
    batch = toy.batch(2)
    batch["weight"][:] = 0
    output, (gradients, _) = _run(toy, batch)
    assert not [name for name in output.metrics if not meanings.of(name)]  # for its report
    assert np.isfinite(output.loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_a_clip_without_sound_spoils_no_step(toy):
    batch = toy.batch(2)
    if "audio" not in batch:
        pytest.skip("these examples are not sound")
    silent = dict(batch, audio=_changed(batch["audio"], 0, 0))
    output, (gradients, _) = _run(toy, silent)
    assert np.isfinite(output.loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    if "used_rows" in output.metrics:  # learns from audio alone: as if the clip were absent
        assert tuple(map(float, output.metrics["used_rows"])) == (1.0, 2.0)
        left_out = dict(batch, weight=_changed(batch["weight"], 0, 0))
        without, _ = _run(toy, left_out)
        np.testing.assert_allclose(output.loss, without.loss, rtol=1e-5)


def test_masks_are_those_of_the_loss_and_need_no_parameters(toy):
    if toy.method.masks is None:
        pytest.skip("this method hides nothing")
    batch = toy.batch(2)
    streams = toy.streams(batch)
    blank = jax.tree.map(np.zeros_like, jax.device_get(toy.params))
    hidden = np.asarray(jax.jit(toy.method.masks)(blank, batch, streams))
    found = jax.eval_shape(toy.method.features, toy.params, batch)
    assert hidden.shape[0] == 2 and hidden[0, 0].size == found.mask.shape[1]
    assert 0 < hidden.sum() < hidden.size
    output, _ = _run(toy, batch)
    if "masked_share" in output.metrics:
        assert hidden.sum() == output.metrics["masked_share"][0]


def test_features_are_of_the_layers_that_are_asked_for(toy):
    features = functools.partial(toy.method.features, layers=(0, -1))
    assert len(jax.eval_shape(features, toy.params, toy.batch(2)).hidden_states) == 2


def test_what_lies_behind_the_end_of_an_example_changes_nothing(toy):
    batch = toy.batch(2)
    signal, length = _with_length(batch)
    end = int(batch[length][-1])
    noise = 5000 if signal == "audio" else 7
    dirty = dict(batch, **{signal: _changed(batch[signal], np.s_[-1, end:], noise)})
    clean_out, _ = _run(toy, batch)
    dirty_out, _ = _run(toy, dirty)
    np.testing.assert_allclose(clean_out.loss, dirty_out.loss, rtol=1e-5)


def test_features_are_those_of_the_unpadded_example(toy):
    batch = toy.batch(2)
    signal, length = _with_length(batch)
    end = int(batch[length][-1])
    alone = {name: value[-1:] for name, value in batch.items()}
    alone[signal] = alone[signal][:, :end]
    padded, short = (jax.device_get(toy.features(toy.params, x)) for x in (batch, alone))
    real = int(short.mask.sum())
    assert real == int(padded.mask[-1].sum()) > 0
    np.testing.assert_allclose(
        padded.hidden_states[:, -1, :real], short.hidden_states[:, 0, :real], atol=2e-4, rtol=1e-3
    )


def _with_length(batch: dict) -> tuple[str, str]:
    """Returns the names of the signal and its length; images all have one size and need no test."""
    return cases.length_key(batch) or pytest.skip("these examples all have one size")


def test_features_have_the_stated_shape_and_rate(toy):
    batch = toy.batch(2)
    features = jax.device_get(toy.features(toy.params, batch))
    layers, rows, frames, width = features.hidden_states.shape
    assert (rows, frames) == features.mask.shape and rows == 2 and width > 1
    own = ("encoder/blocks/", "encoder/audio/blocks/")  # of several encoders, that of sound
    blocks = [x for n, x in tree.named_leaves(toy.params) if n.startswith(own)]
    assert {len(x) for x in blocks} == {layers - 1}
    real = np.asarray(features.mask).sum(axis=1)
    if features.rate:
        seconds = np.asarray(batch["audio_len"]) / toy.config.data.sample_rate
        # a front end without padding loses its receptive field at the ends: two to four frames
        expected = seconds * features.token_rate
        assert np.all(np.abs(real - expected) <= 4), (real, expected)
    if cases.length_key(batch):
        assert real[0] > real[-1], "the last example is shorter"
    else:
        assert np.all(real == frames)
    assert np.isfinite(features.hidden_states).all()
    assert features.hidden_states.dtype == jnp.float32
    again = toy.features(toy.params, batch)
    np.testing.assert_array_equal(features.hidden_states, again.hidden_states)


def _encoder_calls(toy: cases.Toy, batch: dict) -> Callable:
    """Returns noise -> (frames of each front end, full calls, partial calls) of one loss.

    The noise is added to the frames. A call of `encode` is recorded as its input; a partial
    one, which was given `ids_keep`, also as these ids, the hidden states and which of them are
    real. The encoder is not compiled unless a partial call needs it.
    """

    def spy(noise, given):
        frames, whole, part = [], [], []

        def intercept(call, args, kwargs, context):
            result = call(*args, **kwargs)
            if context.method_name == "encode":
                ids_keep = kwargs.get("ids_keep")
                if ids_keep is None:
                    whole.append(args[0])
                else:
                    part.append((args[0], ids_keep, result.hidden_states, result.valid))
            # the front end is a submodule of that name
            if context.method_name == "__call__" and context.module.name == "frontend":
                x, valid = result
                # a frozen teacher of single frames has a front end of another shape
                x = x + noise if noise.shape in ((), x.shape) else x
                frames.append(x)
                return x, valid
            return result

        with nn.intercept_methods(intercept):
            toy.method.loss(*given, True)
        return frames, whole, part

    # arguments are not constants of the program, which the compiler would fold
    run, given = jax.jit(spy), (toy.params, toy.extra, batch, toy.streams(batch))
    return lambda noise: jax.device_get(run(np.asarray(noise, np.float32), given))


def test_masked_content_never_reaches_the_student(toy):
    """Perturbs the masked frames and checks the effect on every encoder call.

    Masked frames are found from the calls: there the student's input differs from the front end's
    output, or the student does not keep them. A method that hides nothing must pass its
    front end's output on unchanged.
    """
    batch = toy.batch(2)
    spy = _encoder_calls(toy, batch)
    frames, seen, kept = spy(0.0)
    assert frames and (seen or kept), "the loss calls no encoder with frontend() and encode()"
    if kept:
        _check_kept(spy, frames[0], kept)
        return
    # a frozen teacher has a front end of its own
    changed = [np.any(x != _nearest(x, frames), axis=-1) for x in seen]
    hidden = [mask for mask in changed if mask.any()]
    if "mask" not in toy.method.scopes:
        assert not hidden
        return
    assert hidden, "no call of encode() sees masked frames"
    # the teacher's own frames may differ everywhere; a mask leaves some unchanged
    mask = min(hidden, key=np.sum)
    assert 0 < mask.sum() < mask.size
    student = next(i for i, x in enumerate(changed) if np.array_equal(x, mask))
    loud = np.random.default_rng(0).normal(0, 5, frames[0].shape).astype(np.float32)
    perturbed = spy(np.where(mask[..., None], loud, 0))[1]
    np.testing.assert_array_equal(perturbed[student], seen[student])
    # and the test can fail: noise on a visible frame does reach the student
    visible = spy(np.where(mask[..., None], 0, loud))[1]
    assert not np.array_equal(visible[student], seen[student])


def _nearest(x: np.ndarray, frames: list) -> np.ndarray:
    """Returns the output of a front end from which the input x of an encoder differs least."""
    alike = [f for f in frames if f.shape == x.shape]
    return min(alike, key=lambda f: np.any(x != f, axis=-1).sum())


def _check_kept(spy: Callable, frames: np.ndarray, calls: list) -> None:
    """Perturbs the frames that the first call did not keep: its real hidden states must not change.

    A call may hold several masked copies of an example: the first of each is checked.
    """
    x, ids_keep, hidden, valid = calls[0]
    prefix = valid.shape[1] - ids_keep.shape[1]
    sight = np.zeros(frames.shape[:2], bool)
    rows = []
    for b, own in enumerate(frames):
        ids = [k[real] for k, real in zip(ids_keep, valid[:, prefix:], strict=True)]
        copies = [r for r, at in enumerate(ids) if np.array_equal(x[r][at], own[at])]
        assert copies, "the kept tokens are none of the front end's: ids_keep must name them"
        rows.append(copies[0])
        sight[b, ids[copies[0]]] = True
    assert 0 < sight.sum() < sight.size
    loud = np.random.default_rng(0).normal(0, 5, frames.shape).astype(np.float32)
    for noise, same in ((~sight, True), (sight, False)):
        _, _, (found, *_) = spy(np.where(noise[..., None], loud, 0))
        for row in rows:
            before, after = (h[:, row, valid[row]] for h in (hidden, found[2]))
            assert np.array_equal(after, before) is same


def test_named_scopes_are_in_the_compiled_step_in_order(toy):
    batch = toy.batch(2)
    lowered = toy.gradients.lower(toy.params, toy.extra, batch, toy.streams(batch))
    text = lowered.as_text(debug_info=True)
    assert toy.method.scopes
    missing = [s for s in toy.method.scopes if not re.search(rf"[/\"(]{s}[/)\"]", text)]
    assert not missing
    known = ["frontend", "mask", "encoder", "targets", "predictor", "loss"]
    assert [s for s in known if s in toy.method.scopes] == [
        s for s in toy.method.scopes if s in known
    ]


def test_untrained_parameters_are_those_of_init(toy):
    if toy.method.untrained is None:
        pytest.skip("init reads no teacher")
    shapes = cases.abstract_batch(toy.method, 2, toy.samples)
    found = jax.jit(lambda key: toy.method.untrained(key, shapes))(jax.random.key(0))
    whole = dict(tree.named_leaves(toy.params))
    for name, x in tree.named_leaves(found):
        np.testing.assert_array_equal(x, whole[name], err_msg=name)


def test_masks_and_noise_follow_the_example_not_the_row(toy):
    batch = toy.batch(2)
    swapped = {name: value[::-1] for name, value in batch.items()}

    @jax.jit
    def loss(params, extra, batch, streams):
        return toy.method.loss(params, extra, batch, streams, False).loss

    a, b = (loss(toy.params, toy.extra, x, toy.streams(x)) for x in (batch, swapped))
    np.testing.assert_allclose(a, b, rtol=1e-5)
