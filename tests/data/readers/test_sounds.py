"""AudioSet, ESC-50 and FSD50K in the layouts in which they are downloaded."""

import pytest

from ssl_jax.data.errors import DataError
from ssl_jax.data.readers.sources import open_source

CLASSES = 'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n'
HEAD = (
    "# Segments csv created Sun Mar  5\n# num_ytids=2\n# YTID, start_seconds, end_seconds, labels\n"
)


@pytest.fixture
def audioset(tmp_path, write):
    """A folder of AudioSet: three clips named in three ways, and a row whose video is gone."""
    (tmp_path / "class_labels_indices.csv").write_text(CLASSES)
    tables = {
        "balanced_train": '-abc, 30.000, 40.000, "/m/09x0r,/m/05zppz"\n'
        'xyz, 0.000, 10.000, "/m/09x0r"\n',
        "unbalanced_train": 'gone, 0.000, 10.000, "/m/09x0r"\n',
        "eval": 'k_k, 70.000, 80.000, "/m/05zppz"\n',
    }
    for name, rows in tables.items():
        (tmp_path / f"{name}_segments.csv").write_text(HEAD + rows)
    for name in ("train/-abc_30.wav", "train/Yxyz.flac", "eval/k_k_70000_80000.wav"):
        write(tmp_path / "audio" / name, 0.1)
    return {"kind": "audioset", "path": str(tmp_path)}


def test_audioset_finds_its_clips_and_counts_those_that_are_gone(audioset):
    with pytest.warns(UserWarning, match=r"1 of 3 rows have no sound file .*row 4, 'gone'"):
        source = open_source("train.a", audioset)
    assert source.columns["tags"].tolist() == ["Speech|Male speech, man speaking", "Speech"]
    assert source.columns["mids"].tolist() == ["/m/09x0r|/m/05zppz", "/m/09x0r"]
    assert source.columns["video"].tolist() == ["-abc", "xyz"]
    assert source.columns["segments"].tolist() == ["balanced_train"] * 2
    assert source.samples.tolist() == [1600, 1600]
    few = open_source("train.a", {**audioset, "segments": ("balanced_train",)})
    assert len(few) == 2
    assert open_source("valid.a", audioset).columns["video"].tolist() == ["k_k"]


def test_audioset_names_what_is_wrong(audioset, tmp_path):
    table = tmp_path / "eval_segments.csv"
    table.write_text(HEAD + "k_k, 70.000\n")
    with pytest.raises(DataError, match=r"eval_segments\.csv, row 4: expected 'video, start, end"):
        open_source("valid.a", audioset)
    table.write_text(HEAD + 'k_k, 70.000, 80.000, "/m/none"\n')
    with pytest.raises(DataError, match=r"row 4: the label '/m/none' is not in class_labels_ind"):
        open_source("valid.a", audioset)
    table.write_text(HEAD + 'other, 70.000, 80.000, "/m/05zppz"\n')
    with pytest.raises(DataError, match=r"none of 1 rows has a sound file .*row 4, 'other'"):
        open_source("valid.a", audioset)
    table.unlink()
    with pytest.raises(DataError, match=r"has no eval_segments\.csv: put the table there"):
        open_source("valid.a", audioset)


@pytest.fixture
def fsd50k(tmp_path, write):
    """A folder of FSD50K with three clips."""
    truth = tmp_path / "FSD50K.ground_truth"
    truth.mkdir()
    dev = "fname,labels,mids,split\n"
    dev += '64760,"Guitar,Music","/m/0342h,/m/04rlf",train\n1,Bark,/m/05tny_,val\n'
    (truth / "dev.csv").write_text(dev)
    (truth / "eval.csv").write_text('fname,labels,mids\n37199,"Rain,Water","/m/06mb1,/m/0838f"\n')
    for name in ("dev_audio/64760", "dev_audio/1", "eval_audio/37199"):
        write(tmp_path / f"FSD50K.{name}.wav", 0.1)
    return {"kind": "fsd50k", "path": str(tmp_path)}


def test_fsd50k_takes_the_split_of_its_place(fsd50k):
    found = {s: open_source(f"{s}.f", fsd50k).columns for s in ("train", "valid", "test")}
    tags = {split: columns["tags"].tolist() for split, columns in found.items()}
    assert tags == {"train": ["Guitar|Music"], "valid": ["Bark"], "test": ["Rain|Water"]}
    assert found["test"]["mids"].tolist() == ["/m/06mb1|/m/0838f"]
    assert found["valid"]["split"].tolist() == ["val"]


def test_fsd50k_names_a_missing_clip_and_column(fsd50k, tmp_path):
    (tmp_path / "FSD50K.dev_audio" / "1.wav").unlink()
    with pytest.raises(DataError, match=r"dev\.csv, row 3: there is no .*dev_audio/1\.wav"):
        open_source("valid.f", fsd50k)
    (tmp_path / "FSD50K.ground_truth" / "dev.csv").write_text("fname,labels,mids\n1,Bark,x\n")
    with pytest.raises(DataError, match=r"dev\.csv, row 1: no column 'split' among"):
        open_source("valid.f", fsd50k)
    with pytest.raises(DataError, match=r"split is 'all': use train, valid, test"):
        open_source("valid.f", {**fsd50k, "split": "all"})


def test_esc50_has_its_folds(tmp_path, write):
    (tmp_path / "meta").mkdir()
    table = tmp_path / "meta" / "esc50.csv"
    table.write_text("filename,fold,target,category\n1-a.wav,1,0,dog\n5-b.wav,5,1,rain\n")
    for name in ("1-a", "5-b"):
        write(tmp_path / "audio" / f"{name}.wav", 0.1)
    given = {"kind": "esc50", "path": str(tmp_path), "where": {"fold": ("5",)}}
    assert open_source("valid.e", given).columns["label"].tolist() == ["rain"]
    table.write_text("filename,target\n1-a.wav,0\n")
    with pytest.raises(DataError, match=r"esc50\.csv, row 1: no column 'fold' among"):
        open_source("valid.e", given)
