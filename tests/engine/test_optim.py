"""The optimizer against loops in numpy: updates, weight decay, layer rates, freezing, clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optim_cases import DEPTH, NAMES, STEPS, arrays, make, named, run, section

from ssl_jax.core import tree
from ssl_jax.core.config import ConfigError
from ssl_jax.engine import optim


def moments(state) -> set[str]:
    """Returns the parameter names that have an optimizer state."""
    found = set()
    for name, leaf in tree.named_leaves(state):
        if leaf.ndim:
            found |= {n for n in NAMES if name.endswith(n)}
    return found


def adam_loop(lr, betas, eps, decay, coupled: bool, count: int = 3) -> dict[str, np.ndarray]:
    """Adam in numpy, one parameter at a time; `lr` is a function of the step."""
    out = {}
    for name, p in named(arrays(0)).items():
        m, v = np.zeros_like(p), np.zeros_like(p)
        for n in range(1, count + 1):
            g = named(arrays(n))[name]
            if coupled:
                g = g + decay(name) * p
            m = betas[0] * m + (1 - betas[0]) * g
            v = betas[1] * v + (1 - betas[1]) * g**2
            step = (m / (1 - betas[0] ** n)) / (np.sqrt(v / (1 - betas[1] ** n)) + eps)
            if not coupled:
                step = step + decay(name) * p
            p = p - lr(n - 1) * step
        out[name] = p
    return out


def check(got: dict, expected: dict, **tolerance) -> None:
    assert set(got) == set(expected) == set(NAMES)
    for name in NAMES:
        np.testing.assert_allclose(
            got[name], expected[name], err_msg=name, **({"rtol": 2e-5, "atol": 2e-6} | tolerance)
        )


RULES = ((r"(bias|scale)$", 0.0), (r"frontend", 0.5), (".*", 1.0))


def rule_factor(name: str) -> float:
    if name.endswith(("bias", "scale")):
        return 0.0
    return 0.5 if "frontend" in name else 1.0


@pytest.mark.parametrize("name", ["adamw", "adam_l2"])
def test_adam_is_the_loop_in_numpy(name):
    config = section(
        name=name,
        schedule="linear",
        warmup="10%",
        betas=(0.8, 0.95),
        eps=1e-3,
        weight_decay=0.3,
        decay_rules=RULES,
    )
    expected = adam_loop(
        lambda n: 0.1 * n / 2 if n < 2 else 0.1 * (1 - (n - 2) / 18),
        (0.8, 0.95),
        1e-3,
        lambda name: 0.3 * rule_factor(name),
        coupled=name == "adam_l2",
    )
    seen, _ = run(config)
    check(seen[-1], expected)


def test_sgd_is_the_loop_in_numpy():
    seen, _ = run(section(name="sgd", betas=(0.9, 0.999), weight_decay=0.1))
    expected = {}
    for name, p in named(arrays(0)).items():
        buffer = np.zeros_like(p)
        for n in (1, 2, 3):
            buffer = 0.9 * buffer + named(arrays(n))[name] + 0.1 * p
            p = p - 0.1 * buffer
        expected[name] = p
    check(seen[-1], expected)


def trust_steps(name: str, p: np.ndarray, u: np.ndarray, coefficient: float) -> np.ndarray:
    """Scales by norm(p) / norm(u), separately per block, and leaves vectors unchanged."""
    if name.startswith("encoder/blocks"):
        return np.stack([trust_steps("x", a, b, coefficient) for a, b in zip(p, u, strict=True)])
    if p.ndim <= 1:
        return u
    return u * coefficient * np.linalg.norm(p) / np.linalg.norm(u)


def test_lars_scales_each_block_and_takes_the_rate_after_the_momentum():
    config = section(
        name="lars",
        lr=10.0,
        schedule="linear",
        betas=(0.9, 0.0),
        weight_decay=0.1,
        decay_rules=RULES,
    )
    expected = {}
    for name, p in named(arrays(0)).items():
        buffer = np.zeros_like(p)
        for n in (1, 2, 3):
            u = named(arrays(n))[name] + 0.1 * rule_factor(name) * p
            buffer = 0.9 * buffer + trust_steps(name, p, u, 0.001)
            p = p - 10.0 * (1 - (n - 1) / STEPS) * buffer
        expected[name] = p
    seen, _ = run(config)
    check(seen[-1], expected, atol=1e-4)


def test_lamb_scales_the_step_of_adamw_by_block():
    common_changes = {"lr": 0.01, "weight_decay": 0.1, "decay_rules": RULES, "eps": 1e-6}
    adamw, _ = run(section(name="adamw", **common_changes), 1)
    lamb, _ = run(section(name="lamb", **common_changes), 1)
    expected = {
        n: p + 0.01 * trust_steps(n, p, (adamw[1][n] - p) / 0.01, 1.0) for n, p in adamw[0].items()
    }
    check(lamb[1], expected, rtol=1e-4, atol=1e-5)


def test_the_first_decay_rule_wins_and_every_parameter_needs_one():
    rates = optim.decay_rates(section(weight_decay=0.2, decay_rules=RULES), NAMES)
    assert rates == pytest.approx({n: 0.2 * rule_factor(n) for n in NAMES})
    config = section(weight_decay=0.2, decay_rules=(("^encoder/", 1.0), ("classifier", 0.0)))
    with pytest.raises(ConfigError, match=r"decay_rules matches the parameter 'mask'"):
        make(config)


def test_layer_factors_are_those_of_beit():
    factors = optim.layer_factors(section(layer_decay=0.5), arrays(0), DEPTH)
    assert set(factors) == set(NAMES) - {
        "classifier/bias",
        "classifier/kernel",
        "encoder/final_norm/scale",
    }
    for name in ("encoder/cls", "encoder/frontend/kernel", "encoder/positions", "mask"):
        assert factors[name] == 0.5**4
    np.testing.assert_array_equal(factors["encoder/blocks/mlp/kernel"][:, 0, 0], [0.125, 0.25, 0.5])
    assert factors["encoder/blocks/mlp/kernel"].shape == (DEPTH, 1, 1)
    assert factors["encoder/blocks/mlp/bias"].shape == (DEPTH, 1)
    assert optim.layer_factors(section(), arrays(0), DEPTH) == {}


def test_layer_factors_without_the_embedding_are_those_of_data2vec2():
    config = section(layer_decay=0.5, layer_decay_embedding=False)
    beit = optim.layer_factors(section(layer_decay=0.5), arrays(0), DEPTH)
    factors = optim.layer_factors(config, arrays(0), DEPTH)
    assert set(factors) == {name for name in NAMES if "blocks" in name}
    for name, vector in factors.items():
        np.testing.assert_array_equal(vector, beit[name])


def test_relative_positions_act_in_all_blocks_and_have_the_full_rate():
    params = arrays(0)
    params["encoder"]["relative"] = {"table": jnp.zeros((4, 2))}
    factors = optim.layer_factors(section(layer_decay=0.5), params, DEPTH)
    assert "encoder/relative/table" not in factors


def test_each_of_several_encoders_has_its_own_depth():
    one, flat = arrays(0)["encoder"], arrays(1)["encoder"]
    flat["blocks"] = jax.tree.map(lambda x: x[:1], flat["blocks"])
    params = {"encoder": {"audio": one, "video": flat, "fused": {"kernel": jnp.zeros((4, 4))}}}
    params |= {"mask": {"video": jnp.zeros(4)}, "head": jnp.zeros(4)}
    assert optim.depths(params) == {"encoder/audio": DEPTH, "encoder/video": 1}
    assert optim.depth(params) == DEPTH
    factors = optim.layer_factors(section(layer_decay=0.5), params, DEPTH)
    alone = optim.layer_factors(section(layer_decay=0.5), arrays(0), DEPTH)
    for name, factor in alone.items():
        if name.startswith("encoder/"):
            own = factors[name.replace("encoder/", "encoder/audio/")]
            np.testing.assert_array_equal(own, factor)
    np.testing.assert_array_equal(factors["encoder/video/blocks/mlp/bias"], [[0.5]])
    assert factors["encoder/video/cls"] == factors["mask/video"] == 0.25
    assert not {"encoder/fused/kernel", "head", "encoder/video/final_norm/scale"} & set(factors)
    rules = section(lr_rules=(("^encoder/video/", 0.1), (".*", 1.0)))
    groups = optim.group_factors(rules, [name for name, _ in tree.named_leaves(params)])
    assert set(groups) == {n for n, _ in tree.named_leaves(params) if n.startswith("encoder/video")}


def test_layer_decay_scales_the_whole_step_and_its_weight_decay():
    plain, _ = run(section(weight_decay=0.3), 1)
    scaled, _ = run(section(weight_decay=0.3, layer_decay=0.5), 1)
    factors = dict.fromkeys(NAMES, 1.0) | optim.layer_factors(
        section(layer_decay=0.5), arrays(0), DEPTH
    )
    expected = {n: plain[0][n] + factors[n] * (plain[1][n] - plain[0][n]) for n in NAMES}
    check(scaled[1], expected)


def test_a_group_has_its_own_rate_beside_that_of_its_layer():
    rules = (("^encoder/blocks/", 10.0), ("kernel$", 0.5))
    names = [name for name, _ in tree.named_leaves(arrays(0))]
    found = optim.group_factors(section(lr_rules=rules), names)
    expected = {n: 10.0 if n.startswith("encoder/blocks/") else 0.5 for n in names}
    assert found == {n: f for n, f in expected.items() if f == 10 or n.endswith("kernel")}
    changes = {"layer_decay": 0.5, "weight_decay": 0.1}
    plain, grouped = (run(section(**changes, lr_rules=r), 1)[0] for r in ((), rules))
    for name in names:
        step, own = (seen[1][name] - seen[0][name] for seen in (plain, grouped))
        np.testing.assert_allclose(own, step * found.get(name, 1.0), rtol=2e-5, atol=2e-7)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ((("^decoder/", 10.0),), r"lr_rules: '\^decoder/' is never the first match"),
        ((("bias", 0.0),), r"lr_rules: the factor of 'bias' is 0.0: use one above 0"),
        ((("(", 2.0),), r"lr_rules: '\(' is not a regex"),
    ],
)
def test_a_group_that_cannot_be_is_an_error(rules, words):
    with pytest.raises(ConfigError, match=words):
        make(section(lr_rules=rules))


def test_layer_decay_needs_the_blocks():
    with pytest.raises(ConfigError, match=r"config\.optim\.layer_decay: .* has 3 layers"):
        make(section(layer_decay=0.5), depth=4)
    with pytest.raises(
        ConfigError, match=r"no parameter lies under encoder/blocks: set it to 1\.0"
    ):
        make(section(layer_decay=0.5), {"classifier": {"bias": jnp.zeros(2)}})


def test_frozen_parameters_stay_and_have_no_state():
    config = section(frozen=("frontend", "^mask$"), weight_decay=0.1)
    seen, state = run(config)
    held = {"encoder/frontend/kernel", "mask"}
    for name in NAMES:
        assert np.array_equal(seen[0][name], seen[-1][name]) == (name in held), name
    assert moments(state) == set(NAMES) - held


@pytest.mark.parametrize("key", ["frozen", "frozen_first"])
def test_an_empty_pattern_is_refused_where_it_would_freeze_everything(key):
    with pytest.raises(ConfigError, match=rf"config.optim.{key} is .*'' is found in every name"):
        run(section(**{key: ("frontend", "")}), 1)


def test_frozen_gradients_do_not_count_in_the_clip():
    def gradients(n: int) -> dict:
        out = arrays(n)
        out["mask"] = out["mask"] * 1e6
        return out

    config = {"name": "sgd", "clip": 1.0, "lr": 1.0, "betas": (0.0, 0.0)}
    plain, _ = run(section(**config, frozen=("^mask$",)), 1)
    loud, _ = run(section(**config, frozen=("^mask$",)), 1, gradients)
    check(loud[1], plain[1])


def test_frozen_first_stands_still_and_then_starts_like_new():
    late = "encoder/blocks/mlp/kernel"
    config = section(frozen_first=("mlp/kernel",), freeze_until="2 steps", weight_decay=0.1)
    seen, state = run(config, 3)
    np.testing.assert_array_equal(seen[0][late], seen[2][late])
    # the first step of Adam after the thaw: bias correction starts there
    g, p = named(arrays(3))[late], seen[0][late]
    np.testing.assert_allclose(
        seen[3][late], p - 0.1 * (g / (np.abs(g) + 1e-8) + 0.1 * p), rtol=1e-5, atol=1e-6
    )
    plain, _ = run(section(weight_decay=0.1), 3)
    for name in set(NAMES) - {late}:
        np.testing.assert_array_equal(seen[3][name], plain[3][name], err_msg=name)
    assert moments(state) == set(NAMES)


def test_frozen_first_reads_the_schedule_of_the_run():
    config = section(
        frozen_first=("^mask$",),
        freeze_until="2 steps",
        schedule="linear",
        name="sgd",
        betas=(0, 0),
    )
    seen, _ = run(config, 3)
    np.testing.assert_allclose(
        seen[3]["mask"],
        seen[0]["mask"] - 0.1 * (1 - 2 / STEPS) * named(arrays(3))["mask"],
        rtol=1e-5,
    )


def test_frozen_first_does_not_count_in_the_clip_until_it_moves():
    def gradients(n: int) -> dict:
        out = arrays(n)
        out["mask"] = out["mask"] * 1e6
        return out

    config = {"name": "sgd", "clip": 1.0, "lr": 1.0, "betas": (0.0, 0.0)}
    config |= {"frozen_first": ("^mask$",), "freeze_until": "1 steps"}
    plain, _ = run(section(**config), 2)
    loud, _ = run(section(**config), 2, gradients)
    check(loud[1], plain[1])
    assert np.abs(loud[2]["classifier/kernel"] - loud[1]["classifier/kernel"]).max() < 1e-5


def test_frozen_first_for_no_step_is_no_freeze():
    plain, _ = run(section(), 2)
    seen, _ = run(section(frozen_first=("mlp",), freeze_until="0 steps"), 2)
    check(seen[2], plain[2], rtol=0, atol=0)


def test_clip_comes_first_and_is_global():
    config = {"name": "sgd", "lr": 1.0, "betas": (0.0, 0.0)}
    seen, _ = run(section(**config, clip=0.5), 1)
    norm = np.sqrt(sum((g**2).sum() for g in named(arrays(1)).values()))
    expected = {n: seen[0][n] - 0.5 / norm * g for n, g in named(arrays(1)).items()}
    check(seen[1], expected)
    # weight decay is added to the clipped gradient
    decayed, _ = run(section(**config, clip=0.5, weight_decay=0.1), 1)
    check(decayed[1], {n: expected[n] - 0.1 * seen[0][n] for n in NAMES})
    loose, _ = run(section(**config, clip=1e6), 1)
    check(loose[1], {n: seen[0][n] - g for n, g in named(arrays(1)).items()})
