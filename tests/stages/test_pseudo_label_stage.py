"""Pseudo-labels of a toy teacher: its hypotheses, their resumption, and the store of those kept."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from ml_collections import ConfigDict

from ssl_jax.core import config as config_lib
from ssl_jax.core.mesh import make_mesh
from ssl_jax.core.types import Method
from ssl_jax.data import pseudo_labels as stores
from ssl_jax.data.errors import BadFile, DataError
from ssl_jax.data.transcripts import LETTERS
from ssl_jax.engine import splits
from ssl_jax.evals import decode
from ssl_jax.evals.label_filters import Filters
from ssl_jax.stages import clustering, pseudo_labels

FRAME = 160
WORDS = {"a": "TEA", "b": "A TOE", "c": "TOE TEA", "d": ""}


def emissions(params, batch):
    """The loudness of every 10 ms is the number of its token; what is unclear says so."""
    audio = batch["audio"].astype(jnp.float32)
    level = jnp.abs(audio.reshape(len(audio), -1, FRAME)).mean(-1) / 500
    away = jnp.abs(level[..., None] - jnp.arange(len(LETTERS)))
    return -params["sure"] * away, batch["audio_len"] // FRAME


METHOD = Method(None, None, None, {}, (), (), emissions=emissions)


def teacher(sure=20.0):
    return pseudo_labels.Teacher(METHOD, {"sure": sure}, LETTERS, "letters", f"toy {sure}")


@pytest.fixture
def pool(tmp_path):
    """Four recordings: clear ones, one between E and T, and one that says nothing."""
    rows = ["path\tsaid"]
    for name, text in WORDS.items():
        tokens = [LETTERS.index(c) for c in text.replace(" ", "|") + "|"] if text else [0] * 4
        levels = np.repeat(np.array(tokens, float), 1)
        if name == "b":
            levels[levels == LETTERS.index("E")] += 0.6
        wave = np.tile([1, -1], FRAME // 2)[None] * 500 * levels[:, None]
        wave[0, 0] += 300 if name == "d" else 0  # all samples alike would be silence
        soundfile.write(tmp_path / f"{name}.wav", wave.reshape(-1).astype(np.int16), 16000)
        rows.append(f"{name}.wav\t{text.lower()}")
    (tmp_path / "index.tsv").write_text("\n".join(rows) + "\n")
    return data(tmp_path)


def data(path, **changes):
    found = config_lib.load("configs/ctc/speech.py:toy").data.copy_and_resolve_references()
    with found.unlocked():
        found.update({"buckets": (0.08,), "batch_size": 2, "workers": 0} | changes)
        found.train = ConfigDict({"pool": {"kind": "table", "path": str(path)}})
        found.valid = found.test = ConfigDict({})
    return found


def write(folder, given, sure=20.0, beam=4, **options):
    split = splits.open_split(clustering.bare_run(given), folder, "train")
    search = decode.Options(**{"beam": beam, "word_score": 0.0, "unit_threshold": 1e3} | options)
    mesh = make_mesh({"data": -1})
    folder.mkdir(exist_ok=True)
    pseudo_labels.write(folder, teacher(sure), search, split, mesh, "said")
    return pseudo_labels.read(folder)


def test_hypotheses_go_on_where_they_were_and_only_with_the_same_teacher(
    pool, tmp_path, monkeypatch
):
    monkeypatch.setattr(pseudo_labels, "_BLOCK", 1)
    out = tmp_path / "out"
    found = write(out, pool)
    assert [row.key for row in found.rows] == [f"pool/{name}.wav" for name in "abcd"]
    assert found.rows[0].text == found.rows[0].plain == found.rows[0].reference == "TEA"
    assert found.rows[1].text == "A TOT" and found.rows[1].reference == "A TOE"
    assert found.rows[0].score > found.rows[1].score and not found.rows[3].tokens
    assert found.spelled[1] == [*"A|TOT|"] and found.rows[1].seconds == pytest.approx(0.06)
    first, last = sorted(out.glob("hypotheses-*.json"))
    kept = first.stat().st_mtime_ns
    last.unlink()
    assert write(out, pool).rows == found.rows and first.stat().st_mtime_ns == kept
    with pytest.raises(DataError, match=r"out holds hypotheses of another teacher: "):
        write(out, pool, sure=2.0)
    with pytest.raises(DataError, match="another teacher"):
        write(out, pool, beam=8)
    (tmp_path / "index.tsv").write_text("path\nb.wav\na.wav\n")
    with pytest.raises(DataError, match="out holds hypotheses of other recordings"):
        write(out, pool)


def test_a_language_model_changes_what_is_said_and_the_store_keeps_what_agrees(pool, tmp_path):
    arpa = "\\data\\\n\\1-grams:\n-3 <unk>\n-1 </s>\n-1 TEA\n-1 TOE\n-1 A\n\\end\\\n"
    (tmp_path / "lm.arpa").write_text(arpa)
    options = {"lm": str(tmp_path / "lm.arpa"), "lm_weight": 3.0}
    found = write(tmp_path / "fused", pool, **options)
    assert (found.rows[1].text, found.rows[1].plain) == ("A TOE", "A TOT")
    store = pseudo_labels.write_selected(tmp_path / "all", found, Filters())
    assert store.columns["text"] == ["TEA", "A TOE", "TOE TEA"] and store.header["wer"] == 0
    assert store.header["dropped"]["empty"] == 1 and store.header["kept_share"] == 0.75
    strict = pseudo_labels.write_selected(tmp_path / "few", found, Filters(disagreement=0.1))
    assert strict.columns["key"] == ["pool/a.wav", "pool/c.wav"]
    assert strict.teacher == store.teacher == found.about["teacher"]
    plain = write(tmp_path / "plain", pool)
    noisy = pseudo_labels.write_selected(tmp_path / "noisy", plain, Filters())
    assert noisy.teacher != store.teacher and noisy.header["wer"] == pytest.approx(1 / 5)
    header = json.loads((tmp_path / "few" / stores._HEADER).read_text())
    assert header["decode"]["lm_weight"] == 3.0 and header["kept_wer"] == 0
    labelled = pseudo_labels.write_selected(
        tmp_path / "usual", found, Filters(score=-10.0, balance=0.9), found
    )
    assert "normalized_score" in labelled.columns
    with pytest.raises(DataError, match="decoded by another teacher, language model or search"):
        pseudo_labels.write_selected(tmp_path / "x", found, Filters(), plain)


def test_what_cannot_be_decoded_is_refused(pool, tmp_path):
    with pytest.raises(ValueError, match=r"set config\.eval\.decode\.beam above 0, such as 16"):
        write(tmp_path / "out", pool, beam=0)
    short = data(tmp_path, buckets=(0.05,), min_seconds=0.0)
    with pytest.raises(BadFile, match=r"lasts 0\.06\d s and would be cut at 0\.05"):
        write(tmp_path / "out", short)
    with pytest.raises(DataError, match=r"lm=.*none\.arpa.* does not exist"):
        write(tmp_path / "out", pool, lm=str(tmp_path / "none.arpa"))
    with pytest.raises(DataError, match=r"lexicon=.*none\.txt.* does not exist: give"):
        write(tmp_path / "out", pool, lexicon=str(tmp_path / "none.txt"))
    mute = dataclasses.replace(METHOD, emissions=None)
    config = config_lib.load("configs/mae/image.py:toy")
    with pytest.raises(ValueError, match=r"'mae' does not transcribe: the teacher of a noisy"):
        pseudo_labels.Teacher.of(ConfigDict({"method": mute, "config": config}))
