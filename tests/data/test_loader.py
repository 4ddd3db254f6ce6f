import json
import threading
import time

import numpy as np
import pytest
import soundfile

from ssl_jax.data.corpus import make_schedule, open_split
from ssl_jax.data.errors import BadFile, ClippedCounter, DataError, InvalidRow, SkipCounter
from ssl_jax.data.loader import batches


@pytest.fixture
def opened(tmp_path, write, data_config):
    """Returns opened(**config) -> (corpus, plan) over 23 clips of 0.05 to 0.5 s at 2 rates."""
    for i in range(23):
        rate = 16000 if i % 2 else 8000
        write(tmp_path / f"c{i % 3}" / f"{i:02d}.flac", 0.05 + 0.45 * i / 22, rate, 200 + 20 * i)
    source = {"kind": "folder", "path": str(tmp_path), "label": "folder"}

    def make(shuffle=True, seed=0, **options):
        config = data_config({"x": source}, **{"buckets": (0.2, 0.4), **options})
        corpus = open_split(config, "train")
        return corpus, make_schedule(corpus, config, seed=seed, shuffle=shuffle)

    return make


def collect(corpus, plan, start, stop, **options):
    return [arrays for arrays, bads in batches(corpus, plan, start, stop, **options) if not bads]


def assert_equal(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert list(x) == list(y)
        for key in x:
            np.testing.assert_array_equal(x[key], y[key])


def test_a_batch_holds_what_its_rows_say(opened):
    corpus, plan = opened()
    for batch in collect(corpus, plan, 0, 7):
        dtypes = {k: str(v.dtype) for k, v in batch.items()}
        assert dtypes == {
            "id": "uint32",
            "weight": "float32",
            "audio": "int16",
            "audio_len": "int32",
            "label": "int32",
        }
        length = batch["audio"].shape[1]
        assert length in (3200, 6400)
        for i, n, label, audio in zip(
            *(batch[k] for k in ("id", "audio_len", "label", "audio")), strict=True
        ):
            assert n == min(corpus.lengths[i], length) and label == corpus.labels[i]
            assert not audio[n:].any()
            if n == corpus.lengths[i]:
                np.testing.assert_array_equal(audio[:n], corpus.read(int(i)))


def test_any_number_of_threads_gives_the_same_bits(opened):
    corpus, plan = opened()
    reference = collect(corpus, plan, 3, 15, threads=0)
    assert len(reference) == 12
    for threads in (1, 4):
        assert_equal(reference, collect(corpus, plan, 3, 15, threads=threads))


def test_any_starting_step_gives_the_same_bits(opened):
    corpus, plan = opened()
    assert_equal(collect(corpus, plan, 0, 20)[13:], collect(corpus, plan, 13, 20))


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bits(opened):
    corpus, plan = opened()
    reference = collect(corpus, plan, 2, 12)
    for workers in (1, 2):
        assert_equal(reference, collect(corpus, plan, 2, 12, workers=workers, threads=1))


@pytest.mark.slow
def test_a_bad_file_in_a_worker_is_named(opened, tmp_path):
    corpus, plan = opened()
    (tmp_path / "c1" / "01.flac").write_bytes(b"gone")
    with pytest.raises(BadFile, match=r"c1/01.flac, row 9: .*"):
        collect(corpus, plan, 0, plan.steps_per_epoch, workers=1)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_read_the_global_batch(opened, hosts):
    corpus, plan = opened()
    whole = collect(corpus, plan, 0, 9)
    parts = [collect(corpus, plan, 0, 9, parts=(h,), of=hosts) for h in range(hosts)]
    joined = [{k: np.concatenate([p[s][k] for p in parts]) for k in whole[s]} for s in range(9)]
    assert_equal(whole, joined)


def test_a_host_may_hold_parts_that_are_no_neighbours(opened):
    corpus, plan = opened()
    whole, mine = collect(corpus, plan, 0, 9), collect(corpus, plan, 0, 9, parts=(0, 3), of=4)
    for batch, part in zip(whole, mine, strict=True):
        quarter = len(batch["id"]) // 4
        rows = np.r_[:quarter, 3 * quarter : 4 * quarter]
        assert_equal([{k: v[rows] for k, v in batch.items()}], [part])


def test_parts_must_divide_the_batch(opened):
    corpus, plan = opened()
    with pytest.raises(
        DataError, match=r"config.data.batch_size .* split into 3 equal parts: use a multiple of 3"
    ):
        batches(corpus, plan, of=3)


def test_crops_differ_by_epoch_and_seed_but_evaluation_starts_at_zero(opened):
    def crops(**options):
        corpus, plan = opened(buckets=(0.1,), **options)
        out = {}
        for step in range(2 * plan.steps_per_epoch if plan.shuffle else plan.steps_per_epoch):
            arrays, _ = next(batches(corpus, plan, step, step + 1, threads=0))
            epoch = step // plan.steps_per_epoch
            for i, audio in zip(arrays["id"].tolist(), arrays["audio"], strict=True):
                out[i, epoch] = audio
        return out, corpus

    first, corpus = crops()
    long = [i for i in range(23) if corpus.lengths[i] > 4000]
    assert sum((first[i, 0] != first[i, 1]).any() for i in long) > len(long) - 3
    other, _ = crops(seed=1)
    assert sum((first[i, 0] != other[i, 0]).any() for i in long) > len(long) - 3
    plain, _ = crops(shuffle=False)
    for i in long:
        np.testing.assert_array_equal(plain[i, 0], corpus.read(i, 0, 1600))


def test_evaluation_reads_every_row_once(opened):
    corpus, plan = opened(shuffle=False)
    rows = [arrays["id"][arrays["weight"] > 0] for arrays, _ in batches(corpus, plan)]
    assert sorted(np.concatenate(rows)) == list(range(23))


def broken(folder):
    """Spoils three files in three ways; returns row -> reason."""
    (folder / "c1" / "01.flac").write_bytes(b"no sound")
    soundfile.write(folder / "c0" / "12.flac", np.full(3000, 7, np.int16), 8000)
    soundfile.write(folder / "c2" / "05.flac", np.arange(10, dtype=np.int16), 16000)
    return {
        "c1/01": "Format not recognised",
        "c0/12": "silent: all 3000",
        "c2/05": "too short: 0.001 s",
    }


def test_bad_files_are_skipped_counted_and_leave_the_rest_alone(opened, tmp_path):
    options = {"on_bad": "skip", "min_seconds": 0.01, "buckets": (0.5,)}
    reasons = broken(tmp_path)
    corpus, plan = opened(**options)
    found = {}
    for arrays, bads in batches(corpus, plan, 0, plan.steps_per_epoch):
        skipped = np.isin(arrays["id"], [b.id for b in bads])
        assert (arrays["weight"] == np.where(skipped, 0, 1)).all()
        assert not arrays["audio"][skipped].any() and not arrays["audio_len"][skipped].any()
        assert arrays["audio"][~skipped].any(axis=1).all()
        found.update({b.where: b.reason for b in bads})
    assert len(found) == 3
    for place, reason in reasons.items():
        assert [r for w, r in found.items() if place in w and reason in r], (place, found)


def test_clipped_rows_are_used_and_counted_once(opened, tmp_path, tone):
    loud = np.clip(5 * tone(0.3, 44100).astype(int), -32768, 32767).astype(np.int16)
    soundfile.write(tmp_path / "c0" / "00.flac", loud, 44100)
    corpus, plan = opened(buckets=(0.5,))
    tally = ClippedCounter(tmp_path / "run" / "clipped.jsonl")
    for _ in range(2):
        for arrays, told in batches(corpus, plan, 0, plan.steps_per_epoch):
            assert (arrays["weight"] == 1).all()
            tally.add(told)
    assert len(tally) == 1 == len(ClippedCounter(tally.path))
    row = json.loads(tally.path.read_text(encoding="utf-8"))
    assert row["id"] == 0 and row["where"].endswith("00.flac, row 1") and 0.3 < row["share"] < 0.8


def test_bad_files_found_while_reading_are_named(opened, tmp_path):
    corpus, plan = opened()
    broken(tmp_path)
    with pytest.raises(BadFile, match=r"\.flac, row \d+: "):
        collect(corpus, plan, 0, plan.steps_per_epoch)


def test_the_tally_lists_each_row_once_and_stops_above_the_share(tmp_path):
    path = tmp_path / "run" / "skipped.jsonl"
    tally = SkipCounter(0.02, 100, path)
    tally.add([InvalidRow(3, "a.wav, row 4", "silent"), InvalidRow(3, "a.wav, row 4", "silent")])
    tally.add([InvalidRow(3, "a.wav, row 4", "silent"), InvalidRow(5, "b.wav, row 6", "empty")])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[1] == {"id": 5, "where": "b.wav, row 6", "reason": "empty"} and len(rows) == 2
    resumed = SkipCounter(0.02, 100, path)
    assert len(resumed) == 2
    resumed.add([InvalidRow(5, "b.wav, row 6", "empty")])
    message = r"3 of 100 rows .*config.data.max_bad_share=0.02; the last is c.wav, row 8: broken"
    with pytest.raises(DataError, match=message):
        resumed.add([InvalidRow(7, "c.wav, row 8", "broken")])


def test_leaving_early_stops_the_threads(opened):
    corpus, plan = opened()
    before = threading.active_count()
    iterator = batches(corpus, plan, threads=4)
    next(iterator)
    assert threading.active_count() > before
    iterator.close()
    end = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() <= before
