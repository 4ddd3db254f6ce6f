"""The BEATs experiment at toy size, with a tokenizer taught by a fine-tuned model."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from experiments.beats import measure, models, sound
from ssl_jax import pipeline
from ssl_jax.core import config as config_lib
from ssl_jax.core.types import Features
from ssl_jax.stages import weights

ROOT = Path(__file__).resolve().parents[2]


def _table(folder, header, rows, seconds):
    """Writes tones in noise, one for each row of other columns, and index.tsv."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    time, lines = np.arange(round(16000 * seconds)) / 16000, [f"path\t{header}"]
    for i, row in enumerate(rows):
        tone = np.sin(2 * np.pi * 200 * (1 + i % 3) * time) / 4
        sound = tone + draw.normal(0, 0.02, len(time))
        soundfile.write(folder / f"{i}.wav", sound, 16000)
        lines.append(f"{i}.wav\t{row}")
    (folder / "index.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.slow
def test_beats_iterates_and_measures_features_and_tokens(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    small = {"depth": 1, "width": 16, "heads": 2, "mlp_width": 16}
    monkeypatch.setattr(models, "SIZE", small | {"patch_width": 8, "position_kernel": 4})
    monkeypatch.setattr(models, "SHALLOW", small)
    rows = [f"{'abc'[i % 3]}\t{i // 6 + 1}" for i in range(12)]
    esc10 = _table(tmp_path / "esc10", "label\tfold", rows, 2.7)
    rows = [f"{i % 2}\t{'xy'[i // 2 % 2]}\t{'train' if i < 6 else 'test'}" for i in range(10)]
    digits = _table(tmp_path / "digits", "digit\tspeaker\tsplit", rows, 0.7)
    options = {"esc10": esc10, "digits": digits, "seeds": 1, "steps": 2, "tokenizer_steps": 2}
    options |= {"batch": 8, "codes": 8, "copies": 1, "finetune_steps": 2, "out": tmp_path}
    overrides = [f"--{k}={v}" for k, v in options.items()]
    train = pipeline._train

    def trained(config, folder, *rest):
        # two steps that other tests compile too: these runs stay as they begin
        if folder.name.startswith(("longer", "mae")):
            weights.create(folder, config, lambda state: state)
        else:
            train(config, folder, *rest)

    monkeypatch.setattr(pipeline, "_train", trained)
    root = pipeline.run("experiments/beats/program.py", str(tmp_path / "run"), overrides)
    results = json.loads((tmp_path / "results.json").read_text())
    arms = {"untrained", "log-mel", "MAE", "iteration 1", "iteration 2"}
    tasks = {"class", "digit", "speaker"}
    assert set(results["probe"]) == tasks | {f"{task} in noise" for task in tasks}
    for values in results["probe"].values():
        assert set(values) == {*arms, "iteration 1, twice as long", "iteration 2, k-means tokens"}
        assert all(len(v) == 1 and 0 <= v[0] <= 1 for v in values.values())
    tokenizers = ["random", "k-means of patches", "k-means of features", "tokenizer 2"]
    for values in results["tokens"].values():
        assert list(values) == tokenizers
    assert all(1 <= v[0] <= 8 for v in results["tokens"]["perplexity"].values())
    assert list(results["clip"]["tokens"]) == tokenizers
    assert len(results["claims"]) == 10 and not any(c["held"] for c in results["claims"])
    (config,) = root.glob("beats-2-0-*/config.json")
    (tokenizer,) = root.glob("tokenizer-2-0-*")
    method = config_lib.of_file(config).method
    assert method.labels == "tokenizer" and method.teachers.tokenizer == str(tokenizer)
    (config,) = root.glob("clustered-0-*/config.json")
    (units,) = root.glob("labels-0-*/train")
    assert config_lib.of_file(config).method.labels == "stored"
    assert config_lib.of_file(config).data.units.train == (str(units),)
    (tuned,) = root.glob("finetuned-2-0-*")
    method = config_lib.of_file(tokenizer / "config.json").method
    assert method.target == "logits" and method.teachers.teacher == str(tuned)
    assert (tmp_path / "results.png").stat().st_size > 20_000


def test_pieces_leave_out_silence_and_noise_spares_padding(tmp_path):
    folder = _table(tmp_path / "own", "label\tfold", ["a\t1", "b\t1"], 2.6)
    tone, rate = soundfile.read(folder / "0.wav")
    quiet = np.concatenate([tone, 1e-4 * (np.arange(2 * rate) % 2)])
    soundfile.write(folder / "0.wav", quiet, rate)  # its second piece has no sound
    offset = soundfile.read(folder / "1.wav")[0] * 0.1 + 0.5  # at four times the level, all clipped
    soundfile.write(folder / "1.wav", offset, rate)
    pieces = sound.pieces(str(folder), 2)
    assert [len(piece) for piece in pieces] == [41600, 41600]
    loud = sound.altered(pieces[1], np.random.default_rng(0), (30.0, 30.0), 0.0)
    assert abs(loud.mean()) < 0.01 < loud.std()
    rows, lengths = sound.clips(str(folder), 5.0)
    assert lengths.tolist() == [len(quiet), 41600]
    heard = sound.noisy(str(folder), 5.0, (0.0, 0.0), 0.0, 1)
    assert not heard[1, 41600:].any() and (heard[1, :41600] != rows[1, :41600]).mean() > 0.9


def test_token_quality_counts_real_tokens_of_windows(tmp_path):
    """Tokens that say the class know log 2 nats, and padding does not count."""
    folder, seen = _table(tmp_path / "own", "label\tfold", ["a\t1", "b\t1"], 4.0), []

    def coder(tell):
        def features(params, batch):
            seen.append(batch["audio"].shape[1])
            real = jnp.arange(8) < (batch["audio_len"] // 5120)[:, None]
            ids = jnp.broadcast_to(tell(batch)[:, None], real.shape)
            return Features(ids[None, ..., None], real, 3.125, (0, 1))

        return features, {}

    told = measure.quality(coder(lambda batch: batch["id"] % 2), 4, str(folder), 5.0)
    assert max(seen) <= 41600  # as long as in training
    assert told["information"] == pytest.approx(np.log(2)) and told["consistency"] == 1
    assert told["perplexity"] == pytest.approx(2)
    silent = measure.quality(coder(lambda batch: batch["id"] * 0 + 3), 4, str(folder), 5.0)
    assert silent["information"] == pytest.approx(0, abs=1e-9) and silent["perplexity"] == 1
    level = coder(lambda batch: (batch["audio"][:, 100] * 1e6).astype(int) % 4)
    assert measure.quality(level, 4, str(folder), 5.0)["consistency"] < 1
