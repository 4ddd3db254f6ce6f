"""Music2Vec in miniature: what do its features know about instruments, keys and tempo?

    python -m ssl_jax.pipeline experiments/music2vec/program.py --real=PATH [--option=value ...]

Renders pieces and single notes with samples of real instruments, pre-trains without labels on the
training pieces and on the recordings in PATH (librosa's examples; '' = none), and probes the frozen
features, log-mel and a random encoder. Short runs then vary crop lengths and target layers. Writes
results.json and results.png next to this file.
"""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probes
from ml_collections import ConfigDict

from experiments import curves as curves_lib
from experiments import pictures as clips
from experiments.music2vec import claims, pictures
from ssl_jax.core import atomic
from ssl_jax.core import config as config_lib
from ssl_jax.data import corpus
from ssl_jax.data.readers import lines
from ssl_jax.data.synthetic import music
from ssl_jax.evals import table
from ssl_jax.ops import dsp, masks
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages.graph import Stage

OPTIONS = {
    "real": "data/librosa_examples",
    "corpus": "data",  # the folder of rendered audio
    "pieces": 400,  # for training; 100 more for validation, 200 for the test
    "notes": 900,  # for training the probe; 200 and 400
    "steps": 250,
    "seeds": 3,  # of the recipe and the random encoder
    "ablation_seeds": 3,  # of the other cells
    "allow_low_turnover": True,  # see the README
    "out": "",
}
DATA = {"real": "librosa"}  # option: its layout in `convert index`
# the music recordings; the others are speech and animals
# recordings of the table of --real, by `_plain` of their names
MUSIC = (
    "audio/147793_setuniman_sweet_waltz_0i_22mi.ogg",
    "audio/442789_lena_orsa_happy_music_pistachio_ice_cream_ragtime.ogg",
    "audio/hungarian_dance_number_5_allegro_in_f_sharp_minor_string_orchestra.ogg",
    "audio/karissa_hobbs_lets_go_fishin.ogg",
    "audio/kevin_macleod_p_i_tchaikovsky_dance_of_the_sugar_plum_fairy.ogg",
    "audio/kevin_macleod_vibe_ace.ogg",
    "audio/admiralbob77_choice_drum_bass.ogg",
    "audio/sorohanro_solo_trumpet_06.ogg",
)
REAL_WEIGHT = 10.0  # draws of a recording per draw of a piece, as it is longer
PIECE_SECONDS, NOTE_SECONDS = 12.0, 2.0
# smaller than `mini`, for minutes on one core: 8 kHz, 4 blocks of width 64, frames of 40 ms
SIZE = {"width": 64, "mlp_width": 256, "conv_channels": 32}
SIZE |= {"conv_kernels": (10, 8, 8), "conv_strides": (5, 8, 8)}
# at 2 s, three position convolutions would give every frame its distance from the ends
SIZE |= {"position_depth": 1}
RATE = 8000
# (crop in seconds, target layers of the four, clips per update), with equal audio per update
CELLS = {
    "2 s, top 3 layers": (2.0, 3, 16),
    "2 s, top layer": (2.0, 1, 16),
    "0.5 s, top 3 layers": (0.5, 3, 64),
    "0.5 s, top layer": (0.5, 1, 64),
}
MAIN = "2 s, top 3 layers"  # the recipe of `mini`, which is also compared with the baselines
HERE = pathlib.Path(__file__).resolve().parent


def main(pipe: Pipe) -> None:
    """Runs both parts; complete stages are skipped."""
    o = pipe.options
    clips = {"train": o["pieces"], "valid": 100, "test": 200}
    pieces = music.tracks(o["corpus"], clips=clips, seconds=PIECE_SECONDS)
    clips = {"train": o["notes"], "valid": 200, "test": 400}
    notes = music.notes(o["corpus"], clips=clips, seconds=NOTE_SECONDS)
    sets = {"pieces": (str(pieces), PIECE_SECONDS), "notes": (str(notes), NOTE_SECONDS)}
    sources = {"pieces": {"kind": "table", "path": str(pieces)}} | _recordings(pipe)
    configs = {name: _config(sources, o["steps"], cell) for name, cell in CELLS.items()}
    cells: dict[str, list] = {name: [] for name in CELLS}
    folders, rows = [], []
    for seed in range(o["seeds"]):
        run = _train(pipe, "pretrain", configs[MAIN], seed)
        folders.append(pipe.folder(run))
        rows.append(_evaluate(pipe, run, sets, True))
    cells[MAIN] = [row["this run"] for row in rows]
    found = {"probes": _by_features(rows)}
    _write(
        pipe, found | {"ablations": {}}, folders
    )  # the first part is available while the rest runs
    for seed in range(o["ablation_seeds"]):
        for name in [name for name in CELLS if name != MAIN]:
            run = _train(pipe, f"cell{[*CELLS].index(name)}", configs[name], seed)
            cells[name].append(_evaluate(pipe, run, sets, False)["this run"])
        _write(pipe, found | {"ablations": {n: _by_task(r) for n, r in cells.items()}}, folders)


def _recordings(pipe: Pipe) -> dict[str, dict[str, Any]]:
    """Returns the source of real recordings, a table of those in MUSIC; {}: none."""
    if not pipe.options["real"]:
        return {}
    folder = pathlib.Path(pipe.options["real"]).resolve()

    def work(out: pathlib.Path) -> None:
        listed = lines.read_table(folder / "index.tsv", "path")[0]["path"]
        there = {_plain(name): folder / name for name in listed}
        missing = [name for name in MUSIC if _plain(name) not in there]
        if missing:
            raise config_lib.ConfigError(f"--real={folder} does not list {missing[0]}")
        rows = ["path\tsplit", *(f"{there[_plain(name)]}\ttrain" for name in MUSIC)]
        atomic.write_text(out / "index.tsv", "\n".join(rows) + "\n")

    stage = pipe.stage("data", "recordings", {"names": list(MUSIC), "folder": str(folder)}, work)
    path = str(pipe.folder(stage))
    return {"recordings": {"kind": "table", "path": path, "weight": REAL_WEIGHT}}


def _plain(name: str) -> str:
    """Returns the letters and digits of a file name, in which copies of the recordings agree."""
    return re.sub("[^a-z0-9]", "", pathlib.Path(name).stem.lower())


def _config(
    sources: Mapping[str, Mapping[str, Any]],
    steps: int,
    cell: tuple[float, int, int],
) -> ConfigDict:
    """Returns the mini config at a smaller size, on the training split of all sources."""
    crop, layers, batch = cell
    config = config_lib.load("configs/music2vec/music2vec.py:mini")
    config = config.copy_and_resolve_references().unlock()
    for split, names in {"train": tuple(sources), "valid": ("pieces",)}.items():
        rows = {"where": {"split": split}}
        config.data[split] = ConfigDict({name: {**sources[name], **rows} for name in names})
    config.data.update({"buckets": (crop,), "batch_size": batch, "min_seconds": 1.0})
    config.data.sample_rate = RATE
    config.method.encoder.update(SIZE)
    config.method.targets.layers = layers
    # the teacher of the paper and a lower learning rate: see the README for the result of `mini`
    config.method.ema.update({"start": 0.999, "end": 0.9999, "anneal": steps})
    config.optim.lr = 1e-3
    every = f"{steps} steps"
    config.eval.valid = False
    config.train.duration = config.checkpoint.every = config.eval.every = every
    return config


def _train(pipe: Pipe, name: str, config: ConfigDict, seed: int) -> Stage:
    return pipe.train(f"{name}-{seed}", config_lib.override(config, [f"seed={seed}"]))


def _evaluate(
    pipe: Pipe, run: Stage, sets: Mapping[str, tuple[str, float]], baselines: bool
) -> dict[str, dict[str, dict[str, float]]]:
    """Probes a run once -> {features: {task: {score: value}}}."""

    def work(out: pathlib.Path) -> None:
        figures.write_results(
            out / "scores.json", probes.evaluate(pipe.folder(run), sets, baselines)
        )

    asked = {"sets": {k: list(v) for k, v in sets.items()}, "baselines": baselines}
    stage = pipe.stage("eval", f"probe-{run.name}", asked, work, (run,))
    return json.loads((pipe.folder(stage) / "scores.json").read_text(encoding="utf-8"))


def _by_features(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns {features: {task: {score: [value of each seed]}}}; log-mel has no seed."""
    found = {name: _by_task([row[name] for row in rows]) for name in rows[0]}
    found[probes.LOG_MEL] = _by_task([rows[0][probes.LOG_MEL]])
    return found


def _by_task(rows: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    return {
        task: {score: [row[task][score] for row in rows] for score in scores}
        for task, scores in rows[0].items()
    }


def _write(pipe: Pipe, found: Mapping[str, Any], runs: Sequence[pathlib.Path]) -> None:
    """Writes results.json, curves, a clip and results.png, and prints the scores."""
    out = pathlib.Path(pipe.options["out"]) if pipe.options["out"] else HERE
    options = {k: v for k, v in pipe.options.items() if k not in ("real", "corpus", "out")}
    options["recordings"] = len(MUSIC) if pipe.options["real"] else 0
    results = {**found, "options": options} | pipe.machine()
    results["claims"] = claims.probes(results)
    figures.write_results(out / "results.json", results)
    curves, clip = curves_lib.keep(out / "curves.json", "music", runs), kept_clip(runs[0])
    figures.write_results(out / "clip.json", clip)
    pictures.draw(out / "results.png", found, curves, clip)
    rows = [
        {"features": name} | {t: table.cell(tasks[t][s]) for t, s in probes.SHOWN.items()}
        for part in ("probes", "ablations")
        for name, tasks in found[part].items()
    ]
    print(table.text_table(rows))


def kept_clip(run: pathlib.Path) -> dict[str, Any]:
    """Returns the first validation clip and the mask of the student of `run`, to be drawn."""
    config = config_lib.from_json((run / "config.json").read_text(encoding="utf-8"))
    mask, rate = config.method.mask, config.data.sample_rate
    seconds = config.data.buckets[-1]
    audio = corpus.open_split(config.data, "valid").read(0, 0, round(seconds * rate))
    hop = int(np.prod(config.method.encoder.conv_strides))
    options = {"n_fft": 512, "hop": hop // 4, "n_mels": 80, "fmax": 0.475 * rate}
    log_mel = dsp.log_mel(audio[None], sample_rate=rate, **options)[0]
    tokens = len(log_mel) // 4
    keys = jax.random.split(jax.random.key(0), 1)
    masked = masks.span_mask(keys, jnp.array([tokens]), tokens, mask.prob, mask.length)[0]
    return clips.clip(log_mel[: 4 * tokens], masked, hop / rate)
