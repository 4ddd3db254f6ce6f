"""Training in a bucket: config, data, checkpoints, metrics and trace, through the real clients.

gcsfs, google-cloud-storage and tensorstore connect to a server in this process.
"""

import json
import os
import subprocess
import sys

import fake_gcs
import pytest
import train_corpus as corpora

from ssl_jax.core import config as config_lib

RUN = "gs://bucket/runs/one"


@pytest.fixture
def gcs(monkeypatch, tmp_path):
    """Starts the server; returns (bucket, environment for a command that uses it)."""
    store, server = fake_gcs.serve()
    address = f"http://localhost:{server.server_port}"
    environment = {
        **os.environ,
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        "FSSPEC_GCS_TOKEN": "anon",
        "NO_GCE_CHECK": "true",
        # otherwise the clients query the kind of bucket from a second server, by gRPC
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "SSL_JAX_CACHE": str(tmp_path / "cache"),
        # programs that other tests compiled are reused
        "JAX_COMPILATION_CACHE_DIR": os.environ["SSL_JAX_CACHE"],
    }
    yield store, environment
    server.shutdown()
    server.server_close()


def put(store, folder, to):
    """Copies a folder into the bucket."""
    for file in folder.rglob("*"):
        if file.is_file():
            store.write(("bucket", f"{to}/{file.relative_to(folder)}"), file.read_bytes())


@pytest.mark.slow
def test_a_run_lives_in_a_bucket_and_is_resumed_there(gcs, tmp_path, root):
    pytest.importorskip("gcsfs")
    store, environment = gcs
    put(store, corpora.write_corpus(tmp_path / "tones"), "tones")
    config = (corpora.CONFIGS / "supervised" / "kws.py").read_bytes()
    store.write(("bucket", "configs/kws.py"), config)
    given = corpora.overrides("gs://bucket/tones", **{"checkpoint.every": "2 steps"})
    given += ["--config.train.duration=6 steps", "--config.log.every=1 steps"]

    def train(*more):
        command = [
            sys.executable,
            "-m",
            "ssl_jax.train",
            "--config",
            "gs://bucket/configs/kws.py:toy",
        ]
        done = subprocess.run(
            [*command, "--workdir", RUN, *given, *more],
            cwd=root, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr

    def rows():
        data, _ = store.objects["bucket", "runs/one/metrics.jsonl"]
        return [json.loads(line) for line in data.decode().splitlines()]

    train("--profile", "3:4")
    names = store.names()
    config = store.objects["bucket", "runs/one/config.json"][0].decode()
    assert config_lib.from_json(config).data.train.sc.path == "gs://bucket/tones"
    trained = [row["step"] for row in rows() if "train/loss" in row]
    assert trained == [1, 2, 3, 4, 5, 6]
    assert [n for n in names if n.startswith("runs/one/profile/") and n.endswith(".xplane.pb")]
    assert {"runs/one/scopes.json", "runs/one/report.html"} <= set(names)
    steps = {n.split("/")[3] for n in names if n.startswith("runs/one/checkpoints/")}
    assert {"4", "6"} <= steps and "2" not in steps  # the last two are kept

    # the arrays of the last checkpoint are lost
    for name in store.names():
        if name.startswith("runs/one/checkpoints/6/params/") and "/d/" in name:
            del store.objects["bucket", name]
    told = train()
    assert f"It is moved to {RUN}/damaged/6; going on from step 4" in told
    assert f"resuming {RUN} at step 4" in told
    assert [name for name in store.names() if name.startswith("runs/one/damaged/6/rest/")]
    assert [row["step"] for row in rows() if "train/loss" in row] == trained
    assert not [p for p in root.iterdir() if p.name.startswith("gs:")]
