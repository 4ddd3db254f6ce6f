import pathlib

import numpy as np
import pytest
from PIL import Image

from ssl_jax.data.corpus import make_schedule, open_split
from ssl_jax.data.errors import DataError
from ssl_jax.data.loader import batches

ROWS = [
    ("a", "rock|guitar", "0.5", "-1"),
    ("b", "", "", "2"),
    ("c", "guitar | voice|guitar", "nan", "1e3"),
]


@pytest.fixture(params=["audio", "image"])
def tagged(request, tmp_path, write, data_config, image_config):
    """Returns (config of a table with options, its source) for audio and for images."""
    lines = ["path\ttags\tvalence\tarousal"]
    for name, *values in ROWS:
        if request.param == "audio":
            write(tmp_path / f"{name}.wav", 0.1)
        else:
            Image.linear_gradient("L").resize((9, 9)).save(tmp_path / f"{name}.png")
        extension = {"audio": "wav", "image": "png"}[request.param]
        lines.append("\t".join([f"{name}.{extension}", *values]))
    (tmp_path / "index.tsv").write_text("\n".join(lines) + "\n")
    source = {"kind": "table", "path": str(tmp_path)}
    make = {"audio": data_config, "image": image_config}[request.param]
    return make, source


def whole(config):
    """Returns the arrays of the three rows, in order."""
    corpus = open_split(config, "train")
    plan = make_schedule(corpus, {**config, "batch_size": 3}, seed=0, shuffle=False)
    return corpus, next(batches(corpus, plan))[0]


def test_tags_are_zeros_and_ones_over_the_classes(tagged):
    make, source = tagged
    corpus, batch = whole(make({"t": {**source, "tags": "tags"}}))
    assert corpus.classes == ("guitar", "rock", "voice")
    assert batch["tags"].dtype == np.float32 and batch["label"].tolist() == [-1, -1, -1]
    assert batch["tags"].tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 1]]
    specs = corpus.specs(0.5)
    assert {k: (v.shape[1:], str(v.dtype)) for k, v in batch.items()} == specs
    fewer = make({"t": {**source, "tags": "tags"}}, classes=("rock", "guitar"))
    with pytest.raises(DataError, match=r"c\.\w+, row 4.*: tag 'voice' is not among the 2 classes"):
        open_split(fewer, "train")
    more = make({"t": {**source, "tags": "tags"}}, classes=("voice", "x", "rock", "guitar"))
    assert whole(more)[1]["tags"][0].tolist() == [0, 0, 1, 1]


def test_targets_are_numbers_and_nan_where_empty(tagged):
    make, source = tagged
    _, batch = whole(make({"t": {**source, "target": ("valence", "arousal")}}))
    expected = [[0.5, -1], [np.nan, 2], [np.nan, 1000]]
    np.testing.assert_array_equal(batch["target"], np.array(expected, np.float32))
    _, batch = whole(make({"t": {**source, "target": "arousal"}}))
    assert batch["target"].tolist() == [[-1], [2], [1000]]
    assert "target" not in whole(make({"t": source}))[1]


@pytest.mark.parametrize("value", ["inf", "-Infinity", "1e39"])
def test_a_target_that_is_not_finite_is_refused_by_its_row(tagged, value):
    make, source = tagged
    path = pathlib.Path(source["path"]) / "index.tsv"
    path.write_text(path.read_text().replace("1e3", value))
    with pytest.raises(DataError, match=rf"c\.\w+, row 4.*arousal is '{value}', not a finite"):
        open_split(make({"t": {**source, "target": "arousal"}}), "train")


def test_sources_without_targets_have_none(tagged):
    make, source = tagged
    named = {"a": {**source, "target": "arousal", "tags": "tags"}, "b": source}
    corpus = open_split(make(named), "train")
    np.testing.assert_array_equal(corpus.fields["target"].ravel(), [-1, 2, 1000] + [np.nan] * 3)
    assert corpus.fields["tags"][np.arange(3, 6)].sum() == 0


def test_validation_takes_the_tags_of_training(tagged):
    make, source = tagged
    config = make({"t": {**source, "tags": "tags"}})
    config["valid"] = {"t": {**source, "tags": "tags", "where": {"tags": "rock|guitar"}}}
    valid = open_split(config, "valid")
    assert valid.fields["tags"][np.arange(1)].tolist() == [[1, 1, 0]]


def test_errors_name_the_column(tagged):
    make, source = tagged
    cases = [
        (
            {"t": {**source, "tags": "tag"}},
            r"train.t.tags is 'tag', not a column: use one of arousal",
        ),
        ({"t": {**source, "target": ("x",)}}, r"train.t.target is 'x', not a column: use one of"),
        (
            {"t": {**source, "target": "tags"}},
            r"a\.\w+, row 2.*: tags is 'rock|guitar', not a number",
        ),
        (
            {"t": {**source, "tags": "tags"}, "u": {**source, "label": "tags"}},
            r"train.u.label gives one class per row and config.data.train.t.tags several",
        ),
        (
            {
                "t": {**source, "target": "valence"},
                "u": {**source, "target": ("valence", "arousal")},
            },
            r"needs the same number of columns: config.data.train.t.target=\('valence',\)",
        ),
    ]
    for train, message in cases:
        with pytest.raises(DataError, match=message):
            open_split(make(train), "train")
