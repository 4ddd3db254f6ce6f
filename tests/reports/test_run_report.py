"""The report of a run: made from its files alone, even for an interrupted run, well formed, and
without the path of anyone's home folder."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import page_checks
import pytest
import report_folder as cases
from ml_collections import ConfigDict
from report_folder import HOME

from ssl_jax import report
from ssl_jax.core.types import Features, Method, Spec
from ssl_jax.data import base
from ssl_jax.data.errors import BadFile
from ssl_jax.engine import environment
from ssl_jax.reports import examples, metrics, run_report

HEADINGS = ["curves", "collapse", "examples-and-masks", "probes", "time", "config", "environment"]


@pytest.fixture
def folder(tmp_path, root):
    return cases.make_folder(tmp_path / "run", root)


def test_a_report_shows_what_the_folder_holds(folder):
    for add in (cases.add_evaluation, cases.add_examples, cases.add_scopes):
        add(folder)
    page = page_checks.check(run_report.write(folder))
    assert page.headings() == HEADINGS
    words = " ".join(page.words)
    for text in ("step 100 of 100", "loss", "target std", "RankMe", "random encoder 0 ridge"):
        assert text.replace(" 0 ", " ") in words, text
    # two rows of layers, curves with a twin each, images
    assert page.count("svg") >= 10 and page.count("image") == 2 + 2
    assert page.count("span", class_="masked") == 1
    assert "encoder 2.000 5.000 7.000 70.0%" in words
    assert "idle – – 1.500 15.0%" in words
    # both keys that differ are marked, also in the list of all keys
    assert "2 keys differ from configs/data2vec/kws.py:toy" in words
    assert page.count("tr", class_="mark") == 2
    assert "encoder/a<b 10" in words.replace("  ", " ")
    assert "2m40s in total" not in words and words.count("1m51s in total") == 2
    assert "What training lowers: a mean" in words and "Validation: examples that are not" in words
    assert "Dimensions that a layer uses" in words and "Examples trained on per second" in words


def test_a_report_says_that_the_teacher_stays_random(folder):
    before = " ".join(page_checks.check(run_report.write(folder)).words)
    assert "turnover" not in before
    path = folder / "environment.jsonl"
    start = json.loads(path.read_text()) | {"low_turnover": "teacher turnover is 0.1 in all"}
    path.write_text(json.dumps(start) + "\n")
    with (folder / "metrics.jsonl").open("w") as file:
        for step in (10, 20):
            row = {"step": step, "time": 50.0 + step, "train/teacher_turnover": step / 200}
            file.write(json.dumps(row) + "\n")
    words = " ".join(page_checks.check(run_report.write(folder)).words)
    assert "teacher turnover 0.1 ·" in words and "teacher turnover is 0.1 in all" in words


def test_a_report_lists_what_was_skipped_and_what_is_clipped(folder):
    row = {"id": 3, "where": "sound/loud.wav, row 4", "share": 0.25}
    (folder / "clipped.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    skipped = {"id": 5, "where": "sound/empty.wav, row 6", "reason": "empty: 0 samples"}
    (folder / "skipped.jsonl").write_text(json.dumps(skipped) + "\n", encoding="utf-8")
    words = " ".join(page_checks.check(run_report.write(folder)).words)
    assert "1 rows of clipped.jsonl: recordings clipped at full scale" in words
    assert "sound/loud.wav, row 4" in words and "0.25" in words
    assert "1 rows of skipped.jsonl" in words and "empty: 0 samples" in words


def test_nobody_s_home_is_in_a_report(folder):
    content = run_report.write(folder).read_text()
    assert "ann" not in content.replace("channel", "").replace("anneal", "")
    assert "~/runs/x" in content and "~/clips" in content


def test_a_run_that_was_cut_off_or_is_old_has_a_report_too(folder):
    for name in ("metrics.jsonl", "environment.jsonl", "parameters.txt", "signature.txt"):
        (folder / name).unlink()
        page = page_checks.check(run_report.write(folder))
        assert page.headings() == HEADINGS
    words = " ".join(page.words)
    assert "No steps have been logged yet" in words and "No probes have run." in words


def test_the_command_writes_several_and_names_what_is_no_run(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "other")
    band = {"step": [10, 100], "mean": [0.3, 0.03], "least": [0.2, 0.02], "most": [0.4, 0.04]}
    (tmp_path / "curves.json").write_text(json.dumps({"ours": {"train/loss": band}}))
    reference = ["--reference", str(tmp_path / "curves.json")]
    report.main(["--run", str(folder), str(tmp_path / "other"), *reference])
    assert capsys.readouterr().out.count("report.html") == 2
    page = page_checks.check(tmp_path / "other" / "report.html")
    assert "ours, train" in page.words and page.count("path", class_="band") == 2
    with pytest.raises(SystemExit, match=r"error: .*nothing is not a run folder: it has no config"):
        report.main(["--run", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit, match=r"error: .*none.json"):
        report.main(["--run", str(folder), "--reference", str(tmp_path / "none.json")])


def test_seconds_are_those_between_starts_and_ends():
    rows = [
        {"event": "start", "time": 10.0},
        {"event": "end", "time": 14.0},
        {"event": "start", "time": 100.0},
        {"event": "start", "time": 200.0},
    ]
    assert environment.seconds(rows[:2], 13.0) == 4
    assert environment.seconds(rows[:3], 107.0) == 11
    assert environment.seconds(rows, 203.0) == 7


def test_a_command_and_an_error_have_no_home():
    assert environment.without_people(f"cp {HOME}/a.b '{HOME}' x") == "cp ~/a.b '~' x"
    root = "/" + "root"
    assert environment.without_people(f"{root}/x {root}ed /a{root}/x") == f"~/x {root}ed /a{root}/x"


class Tones(base.Corpus):
    """Eight clips of half a second to one second; the first cannot be read."""

    buckets = (1.0,)

    def shapes(self, seconds):
        return {"audio": ((8000,), "int16"), "audio_len": ((), "int32")}

    def keys(self, ids, epoch, seconds, seed):
        assert seed is None
        return [0] * len(ids)

    def fill(self, i, key, arrays, row):
        arrays["audio"][row] = 7
        if i == 0:
            raise BadFile("a.wav", "is broken")
        arrays["audio_len"][row] = 4000 + 500 * i
        arrays["audio"][row, : 4000 + 500 * i] = np.arange(4000 + 500 * i) % 90 * 50

    def where(self, i):
        return f"{HOME}/{i}.wav"


def half_masked(params, batch, streams):
    """Masks all frames of clips with even ids; five views."""
    frames = jnp.arange(10) * 800 < batch["audio_len"][:, None] + 0 * params["w"].sum()
    return jnp.repeat((frames & (streams.ids[:, None] % 2 == 0))[:, None], 5, axis=1)


def test_examples_are_usable_rows_with_the_masks_of_the_method(tmp_path):
    first, labels = np.array([0, 8]), np.arange(8, dtype=np.int32) % 2
    corpus = Tones(
        (), (1.0,), (None,), (0.0,), first, labels, ("yes", "no"), {}, {3: "refused"}, "skip"
    )
    method = Method(
        init=lambda key, batch: ({}, {}),
        loss=lambda *args: None,
        features=lambda params, batch: Features(jnp.zeros((1, 4, 10, 2)), jnp.ones((4, 10)), 10.0),
        batch={"id": Spec((), "uint32"), "audio_len": Spec((), "int32")},
        rules=(),
        scopes=(),
        masks=half_masked,
    )
    config = ConfigDict({"seed": 0, "data": {"modality": "audio", "sample_rate": 8000}})
    params = {"w": jax.ShapeDtypeStruct((3,), "float32")}
    examples.write(tmp_path, config, method, params, corpus)
    found = examples.read(tmp_path)
    assert len(found) == 4 and found[0].rate == 10.0
    for example in found:
        file, _, label = example.name.partition(".wav: ")
        i = int(file)  # the folder is left out
        assert i not in (0, 3) and label == ("yes", "no")[i % 2]
        assert example.seconds == (4000 + 500 * i) / 8000
        assert example.masks.shape == (3, 10)
        assert example.masks[2].sum() == (0 if i % 2 else np.ceil((4000 + 500 * i) / 800))
        assert example.picture.shape[0] == examples.BANDS and example.picture.std() > 10


def test_masks_cover_the_masked_parts():
    picture = np.zeros((4, 4, 3), np.uint8)
    image = examples.Example("a", picture, np.zeros((0, 1)), 0.0, 0.0, [])
    mask = np.array([[True, True], [False, True]])
    path = examples._covered(mask, image, (100, 40))
    assert path == "M0.0 0.0h100.0v20.0h-100.0zM50.0 20.0h50.0v20.0h-50.0z"
    sound = image._replace(seconds=0.5, rate=4.0)
    # ten tokens per batch, two of them in this clip, the second of which extends past its end
    found = examples._covered(np.array([False, True, True, False]), sound, (100, 40))
    assert found == "M50.0 0.0h50.0v40.0h-50.0z"
    # the grid of a spectrogram: rows are times, columns frequencies from low to high
    assert examples._covered(mask, sound, (100, 40)) == (
        "M0.0 0.0h100.0v20.0h-100.0zM0.0 20.0h50.0v20.0h-50.0z"
    )
    # two frames of a video, side by side
    found = examples._covered(np.stack([~mask, mask]), image, (80, 40))
    assert (
        found == "M40.0 0.0h40.0v20.0h-40.0zM0.0 20.0h20.0v20.0h-20.0zM60.0 20.0h20.0v20.0h-20.0z"
    )


def test_a_clip_is_a_strip_of_the_first_frame_of_each_step():
    video = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
    masks = np.zeros((1, 4, 2, 2), bool)
    masks[0, :, 0, 1] = True
    strip = examples._strip(video, masks)
    np.testing.assert_array_equal(strip, np.concatenate([video[t] for t in (0, 2, 4, 6)], axis=1))
    assert examples._strip(video, masks[:0, :1, 0, 0]).shape == (16, 8 * 16, 3)
    large = np.zeros((16, 224, 224, 3), np.uint8)
    assert examples._strip(large, np.zeros((1, 8, 14, 14), bool)).shape == (112, 8 * 112, 3)
    drawn = examples.draw([examples.Example("a", strip, masks, 0.0, 0.0, [])])
    assert drawn.count("<svg") == 2 and 'class="whole"' in drawn
    # the masked place is in each of the four frames
    assert drawn.count("v8.0") == 4


def test_an_impossible_speed_is_left_out_and_reported():
    steps = np.arange(6)
    found = {"train/examples_per_second": (steps, np.array([900.0, 8, 9, 10, 11, 0]))}
    drawn = metrics.speed(found)
    assert "right after a pause that were left out: 1" in drawn and "900" not in drawn
    assert "have been timed yet" in metrics.speed({})


def test_the_last_layer_is_not_mistaken_for_another_metric():
    steps = {"monitor/std/layer10": ([5], [0.5]), "monitor/std/layer2": ([5], [0.1])}
    found = {k: (np.array(s), np.array(v)) for k, (s, v) in steps.items()}
    assert set(metrics._by_layer(found)["std"]) == {2, 10}
    assert metrics.is_diagnostic("target_std") and not metrics.is_diagnostic("loss")
