"""An imported model can be trained at once: in its own folder, or as the start of another run."""

import numpy as np
import pytest
from hub_cases import config_json, golden

import ssl_jax
from configs import common
from ssl_jax import evaluate, train
from ssl_jax.core import config as config_lib
from ssl_jax.core import tree
from ssl_jax.data.readers import audio
from ssl_jax.engine import checkpoint
from ssl_jax.hub import files
from ssl_jax.stages import embed, weights

pytestmark = pytest.mark.slow


@pytest.fixture
def sound(tmp_path):
    """Three folders, one per split, of eight short recordings in two classes."""
    draw = np.random.default_rng(0)
    for i in range(24):
        split = ("train", "valid", "test")[i // 8]
        path = tmp_path / "sound" / split / ("no", "yes")[i % 2] / f"{i}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            audio.encode_flac(draw.integers(-9000, 9000, 8000).astype(np.int16), 16000)
        )
    return tmp_path / "sound"


def source(folder, name):
    """Writes small weights of a case, in half precision, and returns the folder."""
    draw = np.random.default_rng(0)
    arrays = {k: 0.1 * draw.standard_normal(s) for k, s in golden(name).items()}
    half = {k: x.astype(np.float16) for k, x in arrays.items()}
    files.write(folder, half, {"config.json": config_json(name)})
    return folder


def finite_loss(metrics):
    """Returns whether there are losses and all are finite."""
    losses = [x for name, x in metrics.items() if name.endswith("/loss")]
    return bool(losses) and np.isfinite(losses).all()


def test_pretraining_goes_on_in_the_folder_and_fine_tuning_starts_from_it(tmp_path, sound):
    name, run = "wav2vec2", tmp_path / "run"
    splits = ("train", "valid", "test")
    here = {s: {"kind": "folder", "path": str(sound / s), "label": "folder"} for s in splits}
    config = tmp_path / "recipe.py"
    config.write_text(
        "from configs.wav2vec2 import audio\n"
        "def get_config():\n"
        "    c = audio.get_config('toy')\n"
        f"    for split, source in {here!r}.items():\n"
        "        c.data[split] = dict(a=source)\n"
        "    return c\n"
    )
    weights.import_run(source(tmp_path / "in", name), run, str(config), (), lambda text: None)
    before = dict(tree.named_leaves(checkpoint.restore_params(run)))
    found = train.run(config_lib.load(str(run / "config.json")), run)
    assert finite_loss(found)
    after = dict(tree.named_leaves(checkpoint.restore_params(run)))
    assert ssl_jax.load(run).step == 4 and before.keys() == after.keys()
    assert not np.array_equal(before["quantizer/codes"], after["quantizer/codes"])
    tuned = config_lib.load(str(run / "config.json")).copy_and_resolve_references().unlock()
    encoder = tuned.method.encoder
    tuned.method = common.supervised()
    tuned.method.encoder = encoder
    tuned.method["encoder"]["input_dropout"] = 0.0
    tuned.init_from = str(run)
    tuned.guard.floors = {}
    found = train.run(config_lib.override(tuned, ()), tmp_path / "tuned")
    assert finite_loss(found)
    clip = np.random.default_rng(1).standard_normal(8000).astype(np.float32) / 10
    assert set(ssl_jax.load(tmp_path / "tuned").predict(clip, 16000)) == {"no", "yes"}


def test_an_imported_model_is_probed_with_a_table_and_nothing_else(tmp_path, sound):
    """Its recipe names data that do not exist, clips of 2 s or more, and batches for a pod."""
    weights.import_run(
        source(tmp_path / "in", "hubert"), tmp_path / "run", notify=lambda text: None
    )
    rows = [f"{p.relative_to(sound)},{p.parent.name}" for p in sorted(sound.rglob("*.flac"))]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["path,label", *rows]) + "\n")
    labels = embed.Labels(table, root=str(sound))
    found = evaluate.run(tmp_path / "run", ["ridge"], labels=labels)
    assert sum(found["clips"].values()) == len(rows) == 24
    assert found["results"][0]["features"] == "this run"
    assert all(0 <= row["test"][0] <= 1 for row in found["results"])
