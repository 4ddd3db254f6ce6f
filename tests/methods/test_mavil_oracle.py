"""MAViL against the literal form in torch, for both stages: losses, gradients, an update."""

import jax
import numpy as np
import pytest
from method_cases import Setup, quick_jit

from configs import common
from ssl_jax.core import tree as tree_lib
from ssl_jax.core.types import FROZEN
from ssl_jax.engine import optim
from ssl_jax.methods import mavil

torch = pytest.importorskip("torch")
literal = pytest.importorskip("mavil_literal")
pytestmark = pytest.mark.interop

SEEN, WIDTH, DECODER = 3, 16, 16
BLOCKS = {"depth": 2, "width": WIDTH, "heads": 2, "mlp_width": 24}
SMALL = {
    "audio": {**BLOCKS, "num_mels": 16, "patch": (8, 8), "frames": None},
    "video": {**BLOCKS, "image_size": 16, "frames": 4, "patch_size": 8},
}
GRIDS = {"audio": (6, 2), "video": (2, 2, 2)}


def small(**more):
    """Returns config.method of a tiny model."""
    config = common.mavil()
    for stream in mavil.STREAMS:
        config.encoders[stream].update(SMALL[stream])
        config.decoders[stream] = {"width": DECODER, "depth": 1, "heads": 2, "mlp_width": 16}
        config.mask_ratio[stream] = 0.6
    config.intra.weight = 0.05
    config.update(more)
    return config


def clips():
    """Returns a batch of four clips, the last of weight 0."""
    draw = np.random.default_rng(0)
    return {
        "id": np.arange(4, dtype=np.uint32),
        "weight": np.array([1, 1, 1, 0], np.float32),
        "audio": draw.integers(-9000, 9000, (4, 8000)).astype(np.int16),
        "audio_len": np.full(4, 8000, np.int32),
        "video": draw.integers(0, 256, (4, 4, 16, 16, 3)).astype(np.uint8),
    }


def tensors(tree, grad=False):
    return {
        name: torch.tensor(np.asarray(x, np.float64), requires_grad=grad)
        for name, x in tree_lib.named_leaves(tree)
    }


def places(stream, width):
    """Returns the positions (S, D) of a stream."""
    if stream == "audio":
        return literal.grid(*GRIDS[stream], width)
    return literal.space_time(*GRIDS[stream], width)


def literal_clips(model, setup):
    """Returns the clips of the batch that count, as the literal form takes them."""
    batch, streams, found = setup.batch, setup.streams(setup.batch), [{} for _ in range(SEEN)]
    for stream, encoder in model.encoders.items():
        own = {"params": setup.params["encoder"][stream]}
        arrays = [batch[name] for name in encoder.reads]
        targets = np.asarray(encoder.apply(own, *arrays, method=mavil.PIECES[stream]), np.float64)
        inputs = targets
        if stream == "video":
            mean, std = (np.tile(x, 128) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
            inputs = (targets - mean) / std
        real = np.ones(targets.shape[:2], bool)
        masks = [np.asarray(model._mask(stream, view, streams, real)[1]) for view in range(2)]
        for i, clip in enumerate(found):
            keep = [np.flatnonzero(~mask[i]).tolist() for mask in masks]
            pair = torch.tensor(inputs[i]), torch.tensor(targets[i])
            clip[stream] = (*pair, places(stream, WIDTH), places(stream, DECODER), keep)
    return found


CASES = {"first stage": {}, "second stage": {}, "bottleneck": {"kind": "bottleneck", "tokens": 2}}


@pytest.fixture(
    scope="module",
    params=[pytest.param(c, marks=[pytest.mark.slow] * bool(i)) for i, c in enumerate(CASES)],
)
def case(request):
    """(Setup, Output, gradient, parameters and losses in torch)."""
    config = small()
    config.fusion.update(CASES[request.param])
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    first = Setup(_make(config), clips())
    setup, teacher = first, None
    if request.param == "second stage":
        config.teachers = {"teacher": "a run"}
        patch.setattr(mavil.Mavil, "teacher", lambda self: first.method.loss.__self__)
        setup = Setup(_make(config), clips())
        teacher = {k: first.params[k] for k in ("encoder", "fusion")}
        setup.extra = {FROZEN: {"teacher": teacher}}

    def loss(params):
        out = setup.loss(params)
        return out.loss, out

    (_, out), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(setup.params)
    p = tensors(setup.params, grad=True)
    examples = literal_clips(setup.method.loss.__self__, setup)
    fusion = literal.bottleneck if request.param == "bottleneck" else literal.fuse
    frozen = None if teacher is None else tensors(teacher)
    found = literal.loss(p, examples, config.to_dict(), teacher=frozen, fusion=fusion)
    found["loss"].backward()
    return setup, out, gradient, p, found


def _make(config):
    return mavil.make(config, precision="float32", sample_rate=16000, num_classes=0)


def test_every_loss(case):
    _, out, _, _, found = case
    for name, value in found.items():
        total, count = out.metrics[name]
        np.testing.assert_allclose(total / count, value.item(), rtol=2e-5, err_msg=name)
    assert out.weight == SEEN


def test_every_gradient(case):
    _, _, gradient, p, _ = case
    ours = dict(tree_lib.named_leaves(gradient))
    assert set(ours) == set(p)
    scale = max(float(x.grad.abs().max()) for x in p.values())
    for name, x in p.items():
        np.testing.assert_allclose(ours[name], x.grad, rtol=1e-3, atol=1e-5 * scale, err_msg=name)


def test_one_update_of_adamw(case):
    setup, _, gradient, p, _ = case
    options = common.base().optim
    changes = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.05, "clip": 0.0}
    options.update(changes | {"schedule": "constant", "warmup": "0 steps"})
    options.decay_rules = common.DECAY_MATRICES
    tx, _ = optim.make(options, setup.params, total_steps=10, to_steps=lambda *_, **__: 0, depth=2)
    updates, _ = jax.jit(tx.update)(gradient, jax.jit(tx.init)(setup.params), setup.params)
    plain = ("bias", "scale", "cls")
    decayed = [x for n, x in p.items() if not n.endswith(plain)]
    others = [x for n, x in p.items() if n.endswith(plain)]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05).step()
    before = dict(tree_lib.named_leaves(setup.params))
    scale = max(float(x.grad.abs().max()) for x in p.values())
    for name, update in tree_lib.named_leaves(updates):
        # AdamW divides by the size of the gradient, also where that is rounding
        clear = p[name].grad.abs().numpy() > 1e-6 * scale
        found = p[name].detach().numpy()[clear]
        moved = np.asarray(before[name] + update)[clear]
        np.testing.assert_allclose(moved, found, atol=1e-5, err_msg=name)
