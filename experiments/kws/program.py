"""data2vec for keyword spotting on real recordings: does pre-training help where labels are few?

    python -m ssl_jax.pipeline experiments/kws/program.py --data=PATH [--option=value ...]

PATH is a folder with index.tsv (columns path, digit, speaker, split), as of the Free Spoken Digit
Dataset. Pre-trains on all training takes without labels, fine-tunes with a share of the labels,
with and without pre-training, then does both again without one of the speakers. Writes
results.json and results.png next to this file; python -m experiments.tables fills its README.
"""

import pathlib
from typing import Any

import protocol
from ml_collections import ConfigDict

from experiments.kws import claims, pictures
from ssl_jax.core import config as config_lib
from ssl_jax.data.readers import sources
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures

OPTIONS = {
    "data": "data/fsdd",
    "label": "digit",
    "sample_rate": 8000,
    "mask_length": 3,  # tokens; half of the digits are shorter than half a second
    "pretrain_steps": 2000,
    "finetune_steps": 400,
    "speaker_pretrain_steps": 1500,
    "speaker_share": 0.05,
    "seeds": 5,
    "speaker_seeds": 3,
    "allow_low_turnover": True,  # see the README
    "out": "",
}
DATA = {"data": "fsdd"}  # option: its layout in `convert index`
# the student's input has another voice and room than the teacher's
AUGMENTED = {
    "warp": {"max_share": 0.1},
    "equalize": {"std_db": 3.0},
    "mix": {"max_share": 0.2},
    "add_floor": {"below_db": (5.0, 40.0)},
}
SHARES = (0.01, 0.05, 0.2, 1.0)
HERE = pathlib.Path(__file__).resolve().parent


def main(pipe: Pipe) -> None:
    """Runs both protocols; complete stages are skipped."""
    by_share, starts = _shares(pipe)
    _write(pipe, by_share, {}, starts)  # the first table is available while the second runs
    _write(pipe, by_share, _speakers(pipe), starts)


def _write(pipe: Pipe, by_share: dict, by_speaker: dict, starts: list) -> None:
    """Writes results, curves, a clip and the picture of them, and prints the tables."""
    o = pipe.options
    out = pathlib.Path(o["out"]) if o["out"] else HERE
    runs = by_share[_name(SHARES[1])]["runs"]
    groups, left_out = (
        {name: {arm: g[arm] for arm in protocol.ARMS} for name, g in found.items()}
        for found in (by_share, by_speaker)
    )
    used = {k: v for k, v in o.items() if k not in ("data", "out")}
    results = {"shares": groups, "speakers": left_out, "options": used} | pipe.machine()
    made = {"claims": claims.shares(results)}
    figures.write_results(out / "results.json", results | made)
    folders = [pipe.folder(s) for s in starts]
    curves, clip = protocol.kept_curves(folders, runs), protocol.kept_clip(folders[0])
    figures.write_results(out / "curves.json", curves)
    figures.write_results(out / "clip.json", clip)
    pictures.draw(out / "results.png", results, curves, clip)
    print(protocol.summary(groups, "labels"))
    print(protocol.summary(left_out, "speaker left out") if left_out else "")


def _config(pipe: Pipe, path: str, steps: int, where: dict[str, dict[str, str]]) -> ConfigDict:
    """Returns a mini config on the table; where: the rows of each split."""
    o = pipe.options
    config = config_lib.load(path).copy_and_resolve_references().unlock()
    for split, rows in where.items():
        source = {"kind": "table", "path": f"{o['data']}/index.tsv", "label": o["label"]}
        config.data[split] = ConfigDict({"takes": source | {"where": rows}})
    config.data.sample_rate = o["sample_rate"]
    config.method.encoder.fmax = 0.475 * o["sample_rate"]
    if "ema" in config.method:
        config.method.ema.anneal = steps
        config.method.mask.length = o["mask_length"]
        config.method.spectral = ConfigDict(AUGMENTED)
    return config_lib.override(config, [f"train.duration={steps} steps"])


def _shares(pipe: Pipe) -> tuple[dict[str, Any], list]:
    o, where = pipe.options, {"train": {"split": "train"}, "test": {"split": "test"}}
    where["valid"] = where["test"]  # shown in the curves, never used for selection
    path = "configs/data2vec/kws.py:mini"
    starts = protocol.pretrain(pipe, _config(pipe, path, o["pretrain_steps"], where), o["seeds"])
    path = "configs/supervised/kws.py:mini"
    finetune = _config(pipe, path, o["finetune_steps"], where)
    found = {}
    for share in SHARES:
        config = config_lib.override(finetune, [f"data.label_share={share}"])
        found[_name(share)] = protocol.finetune(pipe, config, starts, o["seeds"], f"-{share:g}")
    return found, starts


def _speakers(pipe: Pipe) -> dict[str, Any]:
    """Leaves each speaker out of pre-training and fine-tuning, and tests on all their takes."""
    o = pipe.options
    table = {"kind": "table", "path": f"{o['data']}/index.tsv", "label": o["label"]}
    names = sorted(set(sources.open_source("train.takes", table).columns["speaker"]))
    found = {}
    for name in names:
        others = {"split": "train", "speaker": [n for n in names if n != name]}
        where = {"train": others, "test": {"speaker": name}, "valid": {"speaker": name}}
        path = "configs/data2vec/kws.py:mini"
        config = _config(pipe, path, o["speaker_pretrain_steps"], where)
        starts = protocol.pretrain(pipe, config, 1, f"-no-{name}")
        path = "configs/supervised/kws.py:mini"
        config = _config(pipe, path, o["finetune_steps"], where)
        config = config_lib.override(config, [f"data.label_share={o['speaker_share']}"])
        found[name] = protocol.finetune(pipe, config, starts, o["speaker_seeds"], f"-no-{name}")
    return found


def _name(share: float) -> str:
    return f"{share:.0%} of labels"
