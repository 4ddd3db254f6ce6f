import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
from ssl_jax.data.corpus import make_schedule, open_split

config = dict(
    train={"x": dict(kind="fairseq_tsv", path=sys.argv[1], rate=16000)},
    sample_rate=16000, buckets=(5.0, 10.0, 20.0), min_seconds=0.0, batch_size=64,
    constant_seconds=True, classes=(), labels_per_class=0, label_share=1.0, label_seed=0,
    on_bad="raise",
)
begin = time.perf_counter()
corpus = open_split(config, "train")
opened = time.perf_counter() - begin
plan = make_schedule(corpus, config, seed=0)
plan[987_654_321]
started = time.perf_counter() - begin
# of this program alone: ru_maxrss would keep the peak of the process that started it
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 2**20
print(len(corpus), opened, started, peak)
"""


@pytest.mark.slow
def test_a_million_rows_open_in_ten_seconds_and_one_gigabyte(tmp_path):
    path = tmp_path / "train.tsv"
    with path.open("w") as f:
        f.write("/corpus/of/speech\n")
        for i in range(1_000_000):
            name = f"train-other-500/{i % 2338}/{i % 9973}/{i % 2338}-{i % 9973}-{i:07d}.flac"
            f.write(f"{name}\t{16000 + i % 288001}\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True
    )
    rows, opened, started, gigabytes = map(float, done.stdout.split())
    assert rows == 1_000_000
    assert opened < 10 and started < 11 and gigabytes < 1, done.stdout
