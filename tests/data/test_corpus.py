import numpy as np
import pytest
import soundfile

from ssl_jax.data.corpus import make_schedule, open_split
from ssl_jax.data.errors import BadFile, DataError


@pytest.fixture
def words(tmp_path, write):
    """A folder of 3 words with 4, 6 and 10 recordings."""
    for word, count in (("no", 4), ("up", 6), ("yes", 10)):
        for i in range(count):
            write(tmp_path / word / f"{i}.wav", 0.02)
    return {"kind": "folder", "path": str(tmp_path), "label": "folder"}


def test_sources_lie_end_to_end(words, tmp_path, write, data_config):
    write(tmp_path.parent / "more" / "a.wav", 0.1, 8000)
    more = {"kind": "folder", "path": str(tmp_path.parent / "more"), "weight": 2.0}
    corpus = open_split(data_config({"words": words, "more": more}), "train")
    assert len(corpus) == 21 and corpus.classes == ("no", "up", "yes")
    assert np.bincount(corpus.labels + 1).tolist() == [1, 4, 6, 10]
    assert corpus.lengths[-1] == 1600 and corpus.seconds[-1] == pytest.approx(0.1)
    assert corpus.spans == ((0, 20, 1.0, None, 0.0), (20, 21, 2.0, None, 0.0))
    assert corpus.where(20).endswith("more/a.wav, row 1")
    assert len(corpus.read(20)) == 1600 and len(corpus.read(20, 100, 300)) == 300
    assert corpus.column("folder")[:4] == ["no"] * 4 and corpus.column("speaker") == [""] * 21


def test_valid_takes_the_classes_of_train(words, data_config):
    config = data_config({"w": words})
    config["valid"] = {"w": {**words, "where": {"folder": "yes"}}}
    valid = open_split(config, "valid")
    assert valid.classes == ("no", "up", "yes") and set(valid.labels) == {2}
    assert open_split(config, "valid", classes=("yes",)).labels.tolist() == [0] * 10


def test_valid_without_a_path_lies_where_train_does(words, data_config):
    config = data_config({"own": {**words, "part": (0.0, 0.8)}})
    config["valid"] = {"own": {**words, "path": "", "part": (0.8, 1.0)}}
    sides = [open_split(config, split) for split in ("train", "valid")]
    rows = [{side.where(i) for i in range(len(side))} for side in sides]
    assert list(map(len, rows)) == [16, 4] and not rows[0] & rows[1]
    config["train"]["own"]["path"] = ""
    with pytest.raises(DataError, match=r"config\.data\.train\.own\.path is empty: give"):
        open_split(config, "valid")
    config["train"] = {"other": words}
    with pytest.raises(DataError, match=r"config\.data\.valid\.own\.path='' does not exist"):
        open_split(config, "valid")


def test_a_mixture_draws_by_weight(words, tmp_path, write, data_config):
    for i in range(20):
        write(tmp_path.parent / "music" / f"{i}.wav", 0.02)
    music = {"kind": "folder", "path": str(tmp_path.parent / "music"), "weight": 3.0}
    corpus = open_split(data_config({"words": words, "music": music}), "train")
    plan = make_schedule(corpus, data_config({}), seed=0)
    ids = np.concatenate([plan[step].ids for step in range(20 * len(plan))])
    # 20 rows each: music is drawn three times as often, and all rows of a source equally often
    assert (ids >= 20).mean() == pytest.approx(0.75, abs=0.01)
    counts = np.bincount(ids, minlength=40)
    assert counts[:20].std() < 2 and counts[20:].std() < 2


def test_a_label_outside_the_classes_names_the_row(words, data_config):
    config = data_config({"w": words}, classes=("no", "yes"))
    with pytest.raises(DataError, match=r"train.w: .*up/0.wav, row 5: label 'up' is not among"):
        open_split(config, "train")


def test_labels_per_class_and_share_are_stratified_and_nested(words, data_config):
    def chosen(**options):
        corpus = open_split(data_config({"w": words}, **options), "train")
        return np.bincount(corpus.labels).tolist(), {corpus.where(i) for i in range(len(corpus))}

    few, rows = chosen(labels_per_class=2)
    more, larger = chosen(labels_per_class=5)
    assert few == [2, 2, 2] and more == [4, 5, 5] and rows < larger
    assert chosen(labels_per_class=2, label_seed=1)[1] != rows
    assert chosen(label_share=0.5)[0] == [2, 3, 5]
    assert chosen(label_share=0.01)[0] == [1, 1, 1]
    unchosen = data_config({"w": words}, labels_per_class=2)
    unchosen["valid"] = {"w": words}
    assert len(open_split(unchosen, "valid")) == 20


def test_a_chosen_subset_reads_its_own_rows(words, data_config):
    corpus = open_split(data_config({"w": words}, labels_per_class=1), "train")
    names = [corpus.where(i).split("/")[-2] for i in range(3)]
    assert names == ["no", "up", "yes"] == [corpus.classes[x] for x in corpus.labels]


def test_config_errors(words, data_config):
    unlabelled = {"kind": "folder", "path": words["path"]}
    cases = [
        ({}, {}, "config.data.train names no source"),
        (
            {"w": {**words, "label": "word"}},
            {},
            r"train.w.label is 'word', not a column: use one of folder",
        ),
        ({"w": unlabelled}, {"labels_per_class": 2}, "no row of config.data.train has a label"),
        ({"w": words}, {"label_share": 0.0}, "config.data.label_share is 0.0"),
        ({"w": words}, {"on_bad": "ignore"}, "config.data.on_bad is 'ignore'"),
        ({"w": words}, {"sample_rate": 0}, "config.data.sample_rate is 0"),
    ]
    for train, options, message in cases:
        with pytest.raises(DataError, match=message):
            open_split(data_config(train, **options), "train")
    with pytest.raises(DataError, match=r"no split 'dev'"):
        open_split(data_config({"w": words}), "dev")


def test_unusable_headers_are_named_at_once(words, tmp_path, data_config):
    (tmp_path / "up" / "2.wav").write_bytes(b"no sound")
    with pytest.raises(BadFile, match=r"up/2.wav, row 7: .*Format not recognised"):
        open_split(data_config({"w": words}), "train")
    soundfile.write(tmp_path / "up" / "2.wav", np.zeros(0, np.int16), 16000)
    with pytest.raises(BadFile, match=r"up/2.wav, row 7: empty"):
        open_split(data_config({"w": words}), "train")
    soundfile.write(tmp_path / "up" / "2.wav", np.arange(160, dtype=np.int16), 16000)
    with pytest.raises(BadFile, match=r"0.010 s, less than config.data.min_seconds=0.015"):
        open_split(data_config({"w": words}, min_seconds=0.015), "train")
    assert (
        len(open_split(data_config({"w": words}, min_seconds=0.015, on_bad="skip"), "train")) == 20
    )


def test_an_hour_is_read_in_bounded_memory(tmp_path, data_config):
    import tracemalloc

    path = tmp_path / "hour.wav"
    with soundfile.SoundFile(path, "w", 8000, 1, subtype="PCM_16") as f:
        block = np.arange(8000 * 60, dtype=np.int16)
        for _ in range(60):
            f.write(block)
    corpus = open_split(data_config({"h": {"kind": "folder", "path": str(tmp_path)}}), "train")
    assert corpus.seconds[0] == 3600
    tracemalloc.start()
    crop = corpus.read(0, 50_000_000, 160_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(crop) == 160_000 and peak < 8e6


def test_make_schedule_follows_the_config(words, data_config):
    config = data_config({"w": words}, batch_size=3)
    plan = make_schedule(open_split(config, "train"), config, seed=4)
    assert plan.batch_sizes == (3,) and plan.steps_per_epoch == 7 and plan.seed == 4
