"""The files in the run folder of a data2vec run, with made-up numbers."""

import json

import numpy as np

from ssl_jax.core import config as config_lib

HOME = "/".join(["", "home", "ann"])


def make_folder(folder, root, steps=100):
    """Writes the files of a data2vec run, with made-up numbers."""
    folder.mkdir()
    config = config_lib.load(str(root / "configs/data2vec/kws.py:toy"))
    changed = config_lib.override(config, ["optim.lr=0.5", f"data.train.sc.path={HOME}/clips"])
    (folder / "config.json").write_text(config_lib.to_json(changed))
    (folder / "signature.txt").write_text(config_lib.sign(changed) + "\n")
    (folder / "parameters.txt").write_text("encoder/a<b  10\n")
    rows = []
    for step in range(10, steps + 1, 10):
        each = {"loss": 3 / step, "target_std": 1.0, "lr": 0.1, "examples_per_second": 90.0}
        rows.append({"step": step, "time": 50.0 + step, **{f"train/{k}": each[k] for k in each}})
        if step % 50 == 0:
            layers = {f"monitor/rankme/layer{i}": 9.0 + i for i in range(3)}
            layers |= {f"monitor/ridge/accuracy_layer{i}": 0.5 for i in range(3)}
            found = {"valid/loss": 4 / step, "monitor/ridge/accuracy": 0.5, **layers}
            rows.append({"step": step, "time": 51.0 + step, **found})
    rows[3]["train/loss"] = None  # was not finite
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "metrics.jsonl").write_text("".join(lines) + '{"step": 99, "ti')
    start = {
        "event": "start",
        "time": 40.0,
        "step": 0,
        "total": 100,
        "command": f"python -m ssl_jax.train --workdir {HOME}/runs/x",
        "code": "0123456789ab",
        "commit": "abc+",
        "python": "3.11",
        "packages": {"jax": "0.10"},
        "system": "Linux",
        "cores": 2,
        "platform": "cpu",
        "device": "cpu",
        "devices": 1,
        "processes": 1,
        "source": "configs/data2vec/kws.py:toy",
        "changed": {"optim.lr": "0.001", "data.train.sc.path": "'data/speech_commands_v2'"},
    }
    (folder / "environment.jsonl").write_text(json.dumps(start) + "\n")
    return folder


def add_evaluation(folder):
    """Writes evaluation.json: a probe of the run, of a random encoder and of log-mel."""
    result = {
        "step": 100,
        "results": [
            {"features": f, "probe": "ridge", "layer": 2, "selection": [0.5], "test": [value]}
            for f, value in (("this run", 0.75), ("random encoder", 0.25), ("log-mel", 0.5))
        ],
        "health": {
            name: {f"{what}/layer{i}": 1.0 for what in ("std", "rankme") for i in range(3)}
            for name in ("this run", "random encoder")
        },
    }
    (folder / "evaluation.json").write_text(json.dumps(result))


def add_examples(folder):
    """Writes examples.npz: an audio clip, a text and an image."""
    mask = np.zeros((2, 10), bool)
    mask[0, 2:5] = True
    about = [
        {"name": "a.wav: yes", "rate": 10.0, "seconds": 1.0},
        {"name": "t", "rate": 0.0, "seconds": 0.0, "texts": [[["<s>ab", False], ["cd", True]]]},
        {"name": "cat.jpg", "rate": 0.0, "seconds": 0.0},
    ]
    arrays = {"picture0": np.zeros((8, 20, 3), np.uint8), "mask0": mask, "mask1": mask[:0]}
    arrays |= {"picture2": np.zeros((6, 6, 3), np.uint8), "mask2": np.eye(3, dtype=bool)[None]}
    np.savez(folder / "examples.npz", about=np.array(json.dumps(about)), **arrays)


def add_scopes(folder):
    """Writes scopes.json, the result of tracing some steps."""
    scopes = {"encoder": {"forward": 2.0, "backward": 5.0}, "mask": {"forward": 1.0}}
    about = {"first": 5, "last": 9, "scopes": scopes, "data_wait": 0.5, "idle": 1.5, "step": 10.0}
    (folder / "scopes.json").write_text(json.dumps(about))
