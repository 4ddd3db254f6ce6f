import jax
import numpy as np
import pytest

from ssl_jax.core.types import TrainState
from ssl_jax.evals.monitor import Monitor


def tones(seed, rows=24, classes=3):
    """Batches of noisy sines, a pitch per class; the last row is padding."""
    rng = np.random.default_rng(seed)
    for first in (0, rows):
        label = np.arange(rows) % classes
        time = np.arange(300) / 1000
        wave = np.sin(2 * np.pi * (12 + 25 * label[:, None]) * time) + rng.normal(size=(rows, 300))
        yield {
            "id": np.arange(first, first + rows, dtype=np.uint32),
            "weight": (np.arange(rows) < rows - 1).astype(np.float32),
            "label": label.astype(np.int32),
            "audio": (6000 * wave).astype(np.int16),
            "audio_len": np.full(rows, 300, np.int32),
        }


def state(params, extra=None):
    return TrainState(np.int32(7), params, extra or {}, {}, np.zeros(2, np.uint32))


def monitor(features, names):
    energy = lambda p, b: features(p, b).replace(  # noqa: E731
        hidden_states=features(p, b).hidden_states ** 2
    )
    return Monitor(names, energy, train=lambda: tones(0), valid=lambda: tones(1), classes=3)


def test_all_monitors_under_a_transfer_guard(toy):
    features, params = toy
    params = jax.device_put(params)
    teacher = {"teacher": {"kernel": params["kernel"] * 0.5}}
    with jax.transfer_guard("disallow"):
        found = monitor(features, ("ridge", "knn", "collapse"))(7, state(params, teacher))
    assert all(isinstance(v, float) and np.isfinite(v) for v in found.values())
    assert found["monitor/ridge/accuracy"] > 0.6 and found["monitor/knn/accuracy"] > 0.6
    assert found["monitor/ridge/layer"] in (0.0, 1.0)
    best = f"monitor/ridge/accuracy_layer{int(found['monitor/ridge/layer'])}"
    assert found[best] == found["monitor/ridge/accuracy"]
    np.testing.assert_allclose(found["monitor/teacher_cosine/layer0"], 1, atol=1e-4)
    assert found["monitor/teacher_cosine/layer1"] < 0.9999
    assert found["monitor/rankme/layer1"] > 1


def test_the_deviation_counts_for_probes_and_not_for_collapse(toy):
    features, params = toy
    found = {}
    for how in ("mean", "mean_std"):
        names = ("ridge", "collapse")
        given = {"train": lambda: tones(0), "valid": lambda: tones(1), "classes": 3, "how": how}
        found[how] = Monitor(names, features, **given)(7, state(params))
    same = [name for name in found["mean"] if "rankme" in name or "std" in name]
    assert len(same) == 4
    for name in same:
        np.testing.assert_allclose(found["mean"][name], found["mean_std"][name], rtol=1e-3)
    # the pitch of a sine is in the deviation of a linear feature, not in its mean
    score = "monitor/ridge/accuracy"
    assert found["mean_std"][score] > found["mean"][score] + 0.1


def test_collapse_needs_no_labels_and_no_teacher(toy):
    features, params = toy
    found = Monitor(("collapse",), features, train=list, valid=lambda: tones(1), classes=0)(
        7, state(params)
    )
    assert {n.split("/")[1] for n in found} == {"std", "rankme"}


def test_bad_names_and_missing_classes_name_the_key(toy):
    features, _ = toy
    with pytest.raises(ValueError, match=r"config\.eval\.monitors has \['tsne'\]"):
        monitor(features, ("ridge", "tsne"))
    with pytest.raises(ValueError, match="two or more classes"):
        Monitor(("knn",), features, train=list, valid=list, classes=0)
