"""From a pre-trained toy to word error rates, by command line; tones spell the words."""

import json
import shutil

import numpy as np
import pytest
import soundfile

import ssl_jax
from ssl_jax import evaluate, train
from ssl_jax.core import config as config_lib
from ssl_jax.data.corpus import open_split
from ssl_jax.data.errors import BadFile

RATE = 16000
HZ = {"A": 300, "B": 700, "C": 1500, "|": 0}
TEXTS = ("AB C", "CAB", "B A", "ACC", "BC AB", "C B")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Writes each text as tones of 80 ms with gaps, a folder with a table for each split."""
    top = tmp_path_factory.mktemp("spoken")
    folder = top / "train"
    folder.mkdir()
    draw = np.random.default_rng(0)
    t = np.arange(int(0.08 * RATE)) / RATE
    lines = ["path\ttext"]
    for i, text in enumerate(TEXTS):
        parts = []
        for letter in text.replace(" ", "|"):
            parts += [0.3 * np.sin(2 * np.pi * HZ[letter] * t), np.zeros(int(0.02 * RATE))]
        x = np.concatenate(parts)
        soundfile.write(folder / f"{i}.wav", x + 0.003 * draw.standard_normal(len(x)), RATE)
        lines.append(f"{i}.wav\t{text}")
    (folder / "index.tsv").write_text("\n".join(lines) + "\n")
    for split in ("valid", "test"):  # files of their own: no row may be in two splits
        shutil.copytree(folder, top / split)
    return top


def configured(root, name, corpus, *overrides, transcript=True):
    config = config_lib.load(str(root / "configs" / f"{name}.py:toy")).unlock()
    for split in ("train", "valid", "test"):
        own = {"kind": "table", "path": str(corpus / split)}
        own |= {"transcript": "text"} if transcript else {}
        config.data[split] = type(config)({"mine": own})
    config.data.buckets = (0.6,)
    return config_lib.override(config, overrides)


def test_a_table_of_ones_own_is_read_by_its_splits(root, corpus, tmp_path):
    lines = ["path\ttext\tsplit"]
    for i, text in enumerate(TEXTS):
        split = ("train", "train", "valid")[i % 3] if i < 5 else "test"
        lines.append(f"{corpus / 'train' / str(i)}.wav\t{text}\t{split}")
    (tmp_path / "index.tsv").write_text("\n".join(lines) + "\n")
    path = f"data.train.own.path={tmp_path / 'index.tsv'}"
    config = config_lib.load(f"{root}/configs/ctc/speech.py:own", [path])
    found = {s: open_split(config.data, s) for s in ("train", "valid", "test")}
    assert {s: len(rows) for s, rows in found.items()} == {"train": 4, "valid": 1, "test": 1}
    assert found["test"].fields["transcript"].lengths.tolist() == [4]  # C|B|
    published = config_lib.load(f"{root}/configs/ctc/speech.py:base_10h")
    changed = config_lib.diff(published, config)
    assert all(key.startswith("data.") for key in changed)


@pytest.mark.slow
def test_from_a_pretrained_toy_to_no_word_errors(root, corpus, tmp_path, capsys):
    pretrained = tmp_path / "pretrained"
    train.run(configured(root, "data2vec/audio", corpus, transcript=False), pretrained)
    config = configured(
        *(root, "ctc/speech", corpus, f"init_from={pretrained}", "data.batch_size=2"),
        *("method.mask.prob=0.0", "method.encoder.activation_dropout=0.0", "optim.lr=5e-3"),
        *("method.frozen='none'", "optim.frozen=()", "optim.frozen_first=('^encoder/',)"),
        *("optim.freeze_until='20 steps'", "train.duration='400 steps'", "log.every='100 steps'"),
        *("eval.every='200 steps'", "checkpoint.every='200 steps'", "data.spelling='characters'"),
    )
    folder = tmp_path / "asr"
    last = train.run(config, folder)
    said = capsys.readouterr()
    assert "fresh ones: head/classifier/bias, head/classifier/kernel" in said.out + said.err
    assert last["valid/wer"] == last["valid/cer"] == 0
    assert last["valid/infeasible"] == 0 and 0 < last["valid/blank_share"] < 1
    assert json.loads((folder / "classes.json").read_text()) == ["<blank>", "|", "A", "B", "C"]
    result = evaluate.run(folder)
    assert {(row["split"], row["wer"]) for row in result["results"]} == {("valid", 0), ("test", 0)}
    assert result["results"][0]["worst"] == []
    model = ssl_jax.load(folder)
    heard = [
        soundfile.read(corpus / "train" / f"{i}.wav", dtype="int16")[0] for i in range(len(TEXTS))
    ]
    assert model.transcribe(heard, RATE) == list(TEXTS)
    assert model.transcribe(heard[0], RATE) == TEXTS[0]
    long = np.concatenate(heard)  # read in windows of 0.6 s, whose frames are joined
    assert set(model.transcribe(long, RATE)) <= set("ABC ")
    assert model._listener[0].run([long])[0].shape == (1, model.method.frames(len(long)), 5)
    with pytest.raises(ValueError, match="'characters' does not judge phones: use one of CTC"):
        model.pronounce(heard[0], RATE, TEXTS[0])
    with model.config.unlocked():
        model.config.data.spelling = "phones"
    said = [*TEXTS[0].replace(" ", "|"), "|"]
    said[0] = "B" if said[0] == "A" else "A"
    judged = model.pronounce(heard[0], RATE, said)
    assert [phone.mistaken for phone in judged] == [True] + [False] * (len(said) - 1)
    assert judged[0].heard == TEXTS[0][0] and judged[0].score < 0.5
    assert all(phone.start < phone.end <= len(heard[0]) / RATE + 0.1 for phone in judged)
    with pytest.raises(ValueError, match="'data2vec' does not transcribe: fine-tune it"):
        ssl_jax.load(pretrained).transcribe(heard[0], RATE)


@pytest.mark.slow
def test_an_untrained_head_is_shown_with_its_worst_rows(root, corpus, tmp_path, capsys):
    folder = tmp_path / "asr"
    train.run(configured(root, "ctc/speech", corpus, "data.spelling='characters'"), folder)
    evaluate.main(["--run", str(folder), "--step", "best", "--config.eval.decode.beam=3"])
    printed = capsys.readouterr().out
    result = json.loads((folder / "evaluation.json").read_text())
    row = result["results"][1]
    assert row["split"] == "test" and row["recordings"] == len(TEXTS) and row["wer"] > 0
    assert len(row["worst"]) == 5 and row["worst"][0]["reference"] in TEXTS
    assert "of index.tsv, 1." in printed and row["worst"][0]["reference"] in printed
    assert row["hits"] + row["substitutions"] + row["deletions"] == 10


@pytest.mark.slow
def test_too_few_frames_are_refused_before_the_first_step_or_skipped(root, corpus, tmp_path):
    config = configured(root, "ctc/speech", corpus, "method.encoder.conv_strides=(50,8,8)")
    with pytest.raises(
        BadFile, match=r"row 2 of index.tsv: 5 tokens.*need 5 frames.*makes 2 .*'skip'"
    ):
        train.run(config, tmp_path / "a")
    skip = ("data.on_bad=skip", "data.max_bad_share=1.0", "method.encoder.conv_strides=(20,8,8)")
    train.run(configured(root, "ctc/speech", corpus, *skip), tmp_path / "b")
    listed = (tmp_path / "b" / "skipped.jsonl").read_text()
    assert "repeats included" in listed


@pytest.mark.slow
def test_scores_are_those_of_the_spelling(root, corpus, tmp_path):
    config = configured(root, "ctc/speech", corpus, "eval.scores=('per',)")
    with pytest.raises(ValueError, match=r"config.eval.scores is \('per',\).*use some of wer, cer"):
        train.run(config, tmp_path)


@pytest.mark.slow
def test_a_transducer_learns_word_pieces_and_is_searched(root, corpus, tmp_path):
    folder = tmp_path / "transducer"
    config = configured(
        *(root, "transducer/speech", corpus, "data.spelling='pieces'", "data.pieces=6"),
        *("train.duration='400 steps'", "optim.lr=1e-2", "optim.lr_rules=()", "data.batch_size=6"),
        *("method.encoder.strides=(2,1)", "log.every='100 steps'", "eval.every='200 steps'"),
        "checkpoint.every='200 steps'",
    )
    last = train.run(config, folder)
    # the best path misses a token that is spread over many frames, which the search finds
    assert last["valid/wer"] <= 0.2 and last["valid/infeasible"] == 0
    classes = json.loads((folder / "classes.json").read_text())
    assert len(classes) == 6 and any(len(piece) > 1 for piece in classes[1:])
    (tmp_path / "lm.arpa").write_text("\\data\\\n\\1-grams:\n-1\t</s>\n-1\tAB\n-1\tC\n-9\t<unk>\n")
    beam = ["--config.eval.decode.beam=3", f"--config.eval.decode.lm={tmp_path}/lm.arpa"]
    weights = ["--config.eval.decode.lm_weight=0.01", "--config.eval.decode.word_score=0.0"]
    evaluate.main(["--run", str(folder), *beam, *weights])
    rows = json.loads((folder / "evaluation.json").read_text())["results"]
    assert {row["wer"] for row in rows} == {0}
    heard = [soundfile.read(corpus / "train" / f"{i}.wav", dtype="int16")[0] for i in range(6)]
    said = ssl_jax.load(folder).transcribe(heard, RATE)
    assert sum(a == b for a, b in zip(said, TEXTS, strict=True)) >= 5


@pytest.mark.slow
def test_more_tokens_than_a_lattice_holds_are_refused(root, corpus, tmp_path):
    changes = ("method.per_frame=1", "method.encoder.strides=(4,4)")
    config = configured(root, "transducer/speech", corpus, *changes)
    words = r"row 2 of index.tsv: 5 tokens of its transcript, at most 1 a frame, need 5 .*makes 2 "
    with pytest.raises(BadFile, match=words):
        train.run(config, tmp_path)
