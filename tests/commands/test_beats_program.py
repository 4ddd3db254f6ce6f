"""The BEATs experiment at toy size, with a tokenizer taught by a fine-tuned model."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from experiments.beats import models
from ssl_jax import pipeline
from ssl_jax.core import config as config_lib

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
    root = pipeline.run("experiments/beats/program.py", str(tmp_path / "run"), overrides)
    results = json.loads((tmp_path / "results.json").read_text())
    arms = {"untrained", "log-mel", "MAE", "iteration 1", "iteration 2"}
    tasks = {"class", "digit", "speaker"}
    assert set(results["probe"]) == tasks | {f"{task} in noise" for task in tasks}
    for values in results["probe"].values():
        assert set(values) == {*arms, "iteration 1, twice as long"}
        assert all(len(v) == 1 and 0 <= v[0] <= 1 for v in values.values())
    for values in results["tokens"].values():
        assert list(values) == ["random", "k-means of patches", "tokenizer 2"]
    assert all(1 <= v[0] <= 8 for v in results["tokens"]["perplexity"].values())
    assert set(results["clip"]["tokens"]) == {"random", "k-means of patches", "tokenizer 2"}
    assert len(results["claims"]) == 10 and not any(c["held"] for c in results["claims"])
    (config,) = root.glob("beats-2-0-*/config.json")
    (tokenizer,) = root.glob("tokenizer-2-0-*")
    method = config_lib.of_file(config).method
    assert method.labels == "tokenizer" and method.teachers.tokenizer == str(tokenizer)
    (tuned,) = root.glob("finetuned-2-0-*")
    method = config_lib.of_file(tokenizer / "config.json").method
    assert method.target == "logits" and method.teachers.teacher == str(tuned)
    assert (tmp_path / "results.png").stat().st_size > 20_000
