"""Exports read by s3prl's own loaders: every hidden state, of single and of padded clips.

Skipped if s3prl is not installed (see docs/export.md). Its loaders import torchaudio for
pseudo waveforms that nothing here reads, so an empty module replaces it.
"""

import importlib
import sys
import types

import jax
import numpy as np
import pytest
from hub_cases import CASES, audio, random_model

import ssl_jax
from ssl_jax.stages import weights

pytestmark = pytest.mark.interop
SAMPLES = 4000


@pytest.fixture(scope="module")
def upstreams():
    """The entries of s3prl's hub that load a user's file, by family."""
    pytest.importorskip("s3prl")
    random_model("hubert")  # transformers checks for torchaudio before it is replaced
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
        found = {}
        for family, name in (
            ("hubert", "hubert"),
            ("wav2vec2", "wav2vec2"),
            ("data2vec-audio", "data2vec"),
        ):
            hub = importlib.import_module(f"s3prl.upstream.{name}.hubconf")
            found[family] = getattr(hub, f"{name}_custom")
        return found


@pytest.mark.parametrize(
    ("name", "family", "normalize", "padded"),
    [
        ("hubert", "hubert", False, False),
        # in a padded batch, s3prl treats frames as padding only if all of their samples are
        ("hubert large", "hubert", True, False),
        ("wav2vec2", "wav2vec2", False, False),
        ("wav2vec2 large", "wav2vec2", True, True),
        # s3prl does not mask padding between its position convolutions
        ("data2vec audio", "data2vec-audio", True, False),
    ],
)
def test_hidden_states_in_s3prl(name, family, normalize, padded, upstreams, tmp_path):
    """A norm over time here covers the clip alone; in a padded batch s3prl includes the padding."""
    import torch

    random_model(name).save_pretrained(tmp_path / "in")
    recipe, more = f"{CASES[name][2]}:toy", [f"method.encoder.normalize={normalize}"]
    weights.import_run(tmp_path / "in", tmp_path / "run", recipe, more, lambda text: None)
    out = weights.export_run(
        tmp_path / "run", tmp_path / "out", "s3prl", family=family, notify=lambda text: None
    )
    upstream = upstreams[family](str(out)).eval()
    lengths = [SAMPLES, SAMPLES * 3 // 5]
    sound, _ = audio(2, SAMPLES, lengths)
    sound = np.where(sound != 0, 3 * sound + 1, 0)  # so that normalization has an effect
    clips = [torch.from_numpy(x[:n]) for x, n in zip(sound, lengths, strict=True)]
    with torch.no_grad():
        heard = [clips] if padded else [[clip] for clip in clips]
        found = [upstream(batch)["hidden_states"] for batch in heard]
    places = [(0, 0), (0, 1)] if padded else [(0, 0), (1, 0)]
    want = [[layer[row] for layer in found[batch]] for batch, row in places]
    own = ssl_jax.load(tmp_path / "run")
    batch = {"audio": sound, "audio_len": np.array(lengths)}
    got = jax.jit(own.method.features)(own.params, batch)
    for row in (0, 1):
        frames = int(got.mask[row].sum())
        for i, (ours, theirs) in enumerate(zip(got.hidden_states, want[row], strict=True)):
            assert padded or len(theirs) == frames
            scale = max(1.0, float(theirs.abs().max()))
            np.testing.assert_allclose(
                ours[row, :frames] / scale,
                theirs[:frames].numpy() / scale,
                atol=1e-4,
                err_msg=f"row {row}, layer {i}",
            )
