"""`python -m ssl_jax.evaluate --protocol` of units: every layer of a run, and MFCC."""

import json

import numpy as np
import pytest
import soundfile
from run_folder import RATE, make_run

from ssl_jax import evaluate
from ssl_jax.data.readers import alignments

PHONES = {"a": 300, "b": 900, "c": 2700}


def write_corpus(folder):
    """Writes sentences of three tones, each a phone of 0.1 to 0.2 s, with their times."""
    rng, rows, lines = np.random.default_rng(0), {}, ["path\tsplit"]
    for split, count in (("train", 12), ("test", 6)):
        for i in range(count):
            name, spans, sound = f"{split}{i}", [], []
            at = 0.0
            for phone in rng.choice([*PHONES], 4):
                n = int(RATE * rng.uniform(0.1, 0.2))
                sound.append(np.sin(2 * np.pi * PHONES[phone] * np.arange(n) / RATE))
                spans.append((at, at + n / RATE, str(phone)))
                at += n / RATE
            noise = 0.01 * rng.standard_normal(sum(map(len, sound)))
            soundfile.write(folder / f"{name}.wav", 0.3 * np.concatenate(sound) + noise, RATE)
            rows[name] = spans
            lines.append(f"{name}.wav\t{split}")
    (folder / "index.tsv").write_text("\n".join(lines) + "\n")
    alignments.write_ctm(folder / "phones.ctm", rows)
    return folder


@pytest.mark.slow
def test_every_layer_stands_beside_the_untrained_encoder_and_mfcc(root, tmp_path, capsys):
    corpus = write_corpus(tmp_path)
    folder = make_run(f"{root}/configs/data2vec/audio.py:toy", tmp_path / "run")
    texts = [f"data.{split}.read.path={corpus}" for split in ("train", "test")]
    texts += [f"units.alignments={corpus}/phones.ctm", "units.kmeans.clusters=6"]
    texts += [
        "data.buckets=(0.9,)",
        "units.abx=6",
        "units.kmeans.batch_frames=200",
        "units.kmeans.epochs=20",
    ]
    protocol = f"{root}/configs/hubert/quality.py:read"
    evaluate.main(["--run", str(folder), "--protocol", protocol, *(f"--config.{t}" for t in texts)])
    out = capsys.readouterr().out
    assert "random encoder" in out and "phone_purity" in out and "ABX error" in out
    found = json.loads((folder / "evaluation.json").read_text())["results"]
    pairs = [(row["features"], row["layer"]) for row in found]
    kinds = [("this run", 3), ("random encoder", 3), ("MFCC", 1)]
    assert pairs == [(kind, layer) for kind, layers in kinds for layer in range(layers)]
    # MFCC separate three tones, except for frames that overlap two of them
    assert found[-1]["phone_purity"] > 0.85 and found[-1]["pnmi"] > 0.6
    for row in found:
        assert 0 <= row["pnmi"] <= 1 and row["used"] <= 6 and row["segment"] > 0
    assert found[-1]["abx"] < 0.1
    assert all(0 <= row["abx"] <= 1 for row in found)
    again = evaluate.run(folder, overrides=texts, protocol=protocol)
    assert again["results"] == found
    with pytest.raises(SystemExit, match="use some of 0 to 2"):
        evaluate.main(
            ["--run", str(folder), "--protocol", protocol, "--config.units.layers=(7,)"]
            + [f"--config.{t}" for t in texts]
        )
