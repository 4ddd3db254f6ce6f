"""The full pre-training step against torch: forward, backward, AdamW and EMA teacher.

    python -m experiments.benchmarks.step_vs_torch [--only mae ...] [--rounds 5] [--depth 12]

Times each system at Base width: ours with the step of the engine, torch's (torch_steps.py) eager
and with torch.compile, on batches of the same shapes, each in its own process. They take turns of a
few steps, and medians are reported. On CPU everything is float32 with as many threads as cores. On
a GPU matrix products are bfloat16, and the model FLOPs utilization is reported from the counted
FLOPs of the step; on CPU it is relative to the rate of a large product. Layerdrop is off, because
torch skips a dropped block, while ours computes and discards it. Of LightHuBERT, ours and the eager
torch draw a subnet in every step, where torch computes no more than its slices; the compiled one
has the largest in every step, because it would compile each of them anew.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

# leaves memory for torch on the same GPU
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.benchmarks import stepping
from ssl_jax import plan
from ssl_jax.core import atomic, chips
from ssl_jax.core import config as config_lib
from ssl_jax.methods.data2vec2 import MaskOptions
from ssl_jax.nn import build
from ssl_jax.nn.conv import output_lengths

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = {
    "hubert_audio": "HuBERT, waveforms",
    "wav2vec2_audio": "wav2vec 2.0, waveforms",
    "data2vec_audio": "data2vec v1, waveforms",
    "data2vec2_audio": "data2vec 2.0, waveforms",
    "lighthubert_audio": "LightHuBERT, waveforms",
    "data2vec2_image": "data2vec 2.0, images",
    "beats": "BEATs, sounds",
    "beats_tokenizer": "BEATs' tokenizer, sounds",
    "best_rq": "BEST-RQ, Conformer L of log-mel",
    "mae": "MAE, images",
    "dmae": "DMAE, images",
    "moco_v3": "MoCo v3, images",
}
CONFIGS = {
    "hubert_audio": "hubert/audio.py:base",
    "wav2vec2_audio": "wav2vec2/audio.py:base",
    "data2vec_audio": "data2vec/audio.py:base",
    "data2vec2_audio": "data2vec2/audio.py:base",
    "lighthubert_audio": "lighthubert/speech.py:base",
    "data2vec2_image": "data2vec2/image.py:base",
    "beats": "beats/audio.py:iter1",
    "beats_tokenizer": "beats/tokenizer.py:iter2",
    "best_rq": "best_rq/speech.py:l",
    "mae": "mae/image.py:base",
    "dmae": "dmae/image.py:base",
    "moco_v3": "moco_v3/image.py:small",
}
# {system: (examples, masks of each; of MoCo v3 its views)} on CPU and on a GPU
ROWS = {
    "cpu": {
        "hubert_audio": (2, 1),
        "wav2vec2_audio": (2, 1),
        "data2vec_audio": (2, 1),
        "data2vec2_audio": (1, 4),
        "lighthubert_audio": (2, 1),
        "data2vec2_image": (2, 8),
        "beats": (8, 1),
        "beats_tokenizer": (5, 1),  # as many tokens as codes
        "best_rq": (4, 1),
        "mae": (8, 1),
        "dmae": (8, 1),
        "moco_v3": (8, 2),
    },
    "gpu": {
        "hubert_audio": (32, 1),
        "wav2vec2_audio": (32, 1),
        "data2vec_audio": (32, 1),
        "data2vec2_audio": (16, 8),
        "lighthubert_audio": (32, 1),
        "data2vec2_image": (32, 16),
        "beats": (128, 1),
        "beats_tokenizer": (64, 1),
        "best_rq": (64, 1),
        "mae": (256, 1),
        "dmae": (256, 1),
        "moco_v3": (128, 2),
    },
}
SOUNDS = ("beats", "beats_tokenizer", "best_rq")  # as spectrograms
# the share of frames that the published spans mask
MASKED = {"hubert_audio": 0.57, "wav2vec2_audio": 0.49, "data2vec_audio": 0.49}
MASKED |= {"lighthubert_audio": 0.49, "best_rq": 0.33}
SECONDS, RATE, IMAGE, PATCHES, WIDTH = 5, 16_000, 224, 196, 768


def hears(system: str) -> bool:
    """Returns whether a system reads waveforms."""
    return system.endswith("audio") or system in SOUNDS


def base_config(system: str, depth: int, clones: int) -> ConfigDict:
    """Returns the Base config of a system with `depth` blocks and a constant learning rate."""
    config = config_lib.load(str(ROOT / "configs" / CONFIGS[system]))
    config = config.copy_and_resolve_references().unlock()
    method = config.method
    method.encoder.update({"depth": depth, "layerdrop": 0.0})
    if isinstance(method.get("targets"), ConfigDict):  # those of wav2vec 2.0 are no layers
        free = depth - method.get("prenet_depth", 0)
        method.targets.layers = min(method.targets.layers, free)
    if "clones" in method:
        method.clones = clones
    if "space" in method:
        method.space.depths = (depth,)
    if "align" in method:  # with three quarters of the student, of any depth
        method.align.student = (max(1, 3 * depth // 4),)
    config.optim.update({"schedule": "constant", "lr": 1e-4, "warmup": "0 steps", "end_lr": 0.0})
    config.precision = "auto"
    return config.lock()


def make_batch(system: str, rows: int) -> dict[str, np.ndarray]:
    """Returns a host batch of noise, as the loader would yield it."""
    rng = np.random.default_rng(0)
    batch = {"id": np.arange(rows, dtype=np.uint32), "weight": np.ones(rows, np.float32)}
    if hears(system):
        audio = rng.integers(-3000, 3000, (rows, SECONDS * RATE)).astype(np.int16)
        batch |= {"audio": audio, "audio_len": np.full(rows, SECONDS * RATE, np.int32)}
        if system == "hubert_audio":  # 100 clusters of MFCC, 100 labels per second
            batch["units"] = rng.integers(0, 100, (rows, 1, SECONDS * 100)).astype(np.int32)
        return batch
    views = (2,) if system == "moco_v3" else ()
    image = rng.integers(0, 256, (rows, *views, IMAGE, IMAGE, 3), dtype=np.uint8)
    return batch | {"image": image}


def theirs(system: str, config: ConfigDict, batch: dict[str, np.ndarray], compiled: bool) -> Any:
    """Returns the equivalent torch function, with masks of the same sizes."""
    import torch

    from experiments.benchmarks import torch_images, torch_steps

    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    method = config.method
    if system == "moco_v3":
        views = torch.from_numpy(batch["image"].transpose(1, 0, 4, 2, 3).copy())
        model = torch_images.MoCoV3(method.encoder.depth)
        inputs = {"first": views[0], "second": views[1]}
        return torch_steps.Trainer(model, inputs, compiled, config.optim.clip).step
    depth = method.encoder.depth
    if system in SOUNDS:
        model, tensors = of_sounds(system, config, batch["audio"])
        return torch_steps.Trainer(model, tensors, compiled, config.optim.clip).step
    clones = method.get("clones", 1)
    inputs = {"signal": batch.get("audio", batch.get("image"))}
    if system.endswith("audio"):
        inputs["signal"] = inputs["signal"].astype(np.float32) / 32768
        tokens = int(output_lengths(inputs["signal"].shape[1]))
    else:
        inputs["signal"] = inputs["signal"].transpose(0, 3, 1, 2).copy()
        tokens = PATCHES
    noise = np.random.default_rng(1).random((len(batch["id"]) * clones, tokens), np.float32)
    if system in ("mae", "dmae"):
        model = torch_steps.MAE(depth)
        if system == "dmae":
            model = torch_images.DMAE(depth, method.align.student[0], method.align.teacher[0])
        inputs = {"image": inputs["signal"], "noise": noise}
    elif system in MASKED:
        mask = noise.argsort(1).argsort(1) < int(MASKED[system] * tokens)
        given = system, config, mask, inputs["signal"], batch
        model, inputs = of_masked_frames(*given, compiled)
    else:
        audio = system.endswith("audio")
        shape = (tokens,) if audio else (14, 14)
        model = torch_steps.Data2Vec2(depth, method.targets.layers, clones, audio, shape)
        ids_shuffle = noise.argsort(1)
        count = visible_tokens(config, tokens)
        inputs |= {"ids_keep": ids_shuffle[:, :count], "ids_masked": ids_shuffle[:, count:]}
        inputs["ids_restore"] = ids_shuffle.argsort(1)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in inputs.items()}
    return torch_steps.Trainer(model, tensors, compiled, config.optim.clip).step


def of_masked_frames(
    system: str,
    config: ConfigDict,
    mask: np.ndarray,
    audio: np.ndarray,
    batch: dict,
    compiled: bool,
) -> tuple[Any, dict[str, np.ndarray]]:
    """Returns the torch model of a system with masked frames (B, S), and its inputs."""
    from experiments.benchmarks import torch_steps

    method, depth = config.method, config.method.encoder.depth
    inputs = {"audio": audio, "mask": mask}
    if system == "wav2vec2_audio":
        inputs["negatives"] = torch_steps.negatives(mask, method.negatives.count)
        return torch_steps.Wav2Vec2(depth), inputs
    inputs["ids_masked"] = np.nonzero(mask)[1].reshape(len(mask), -1)
    if system == "data2vec_audio":
        return torch_steps.Data2VecAudio(depth, method.targets.layers), inputs
    if system == "lighthubert_audio":
        return elastic(config, compiled), inputs
    labels = batch["units"][:, 0, :: round(method.units.rate) // 50]
    inputs["units"] = np.take_along_axis(labels, inputs["ids_masked"], 1)
    return torch_steps.Hubert(depth, *method.units.classes), inputs


def of_sounds(system: str, config: ConfigDict, audio: np.ndarray) -> tuple[Any, dict[str, Any]]:
    """Returns the torch model of BEATs, its tokenizer or BEST-RQ, and its inputs."""
    import torch

    from experiments.benchmarks import torch_conformer, torch_sounds

    method, depth = config.method, config.method.encoder.depth
    signal = torch.from_numpy(audio.astype(np.float32) / 32768)
    if system == "beats_tokenizer":
        return torch_sounds.Tokenizer(depth, 12, method.estimator.depth), {"audio": signal}
    if system == "best_rq":
        encoder = build.encoder(method.encoder, precision="float32", sample_rate=RATE)
        noise = np.random.default_rng(1).random((len(audio), int(encoder.frames(audio.shape[1]))))
        mask = torch.from_numpy(noise < np.quantile(noise, MASKED[system], 1, keepdims=True))
        return torch_conformer.BestRq(depth), {"audio": signal, "mask": mask}
    tokens = (SECONDS * 100 - 2) // 16 * 8
    noise = np.random.default_rng(1).random((len(audio), tokens))
    keep = np.sort(noise.argsort(1)[:, : int(tokens * (1 - method.mask_ratio))], 1)
    masked = np.ones(noise.shape, bool)
    np.put_along_axis(masked, keep, False, 1)
    inputs = {"audio": signal, "ids_keep": torch.from_numpy(keep)}
    inputs["masked"] = torch.from_numpy(masked)
    return torch_sounds.Beats(depth, method.predictor.depth), inputs


def elastic(config: ConfigDict, largest: bool) -> Any:
    """Returns the torch model of LightHuBERT; largest: of its largest subnet in every step."""
    from experiments.benchmarks import torch_elastic

    method, space = config.method, config.method.space
    teacher = config_lib.load(str(ROOT / method.teachers.teacher)).method.encoder
    teacher = build.encoder(teacher, precision="float32", sample_rate=RATE).depth
    choices = torch_elastic.Choices(space.embed, space.heads, space.ratios)
    depth, top = method.encoder.depth, method.targets.layers
    return torch_elastic.LightHubert(depth, teacher, top, choices, largest)


def visible_tokens(config: ConfigDict, tokens: int) -> int:
    """Returns how many tokens of a view data2vec 2.0 encodes."""
    return MaskOptions(**config.method.mask.to_dict()).visible(tokens)


def of_batch(system: str, config: ConfigDict, rows: int) -> ConfigDict:
    """Returns the config with the batch of `make_batch`."""
    changes: dict[str, Any] = {"data.batch_size": rows}
    if hears(system):
        changes |= {"data.buckets": (float(SECONDS),), "data.constant_seconds": False}
    return config_lib.change(config, changes)


def flops(system: str, config: ConfigDict, rows: int) -> float:
    """Returns the FLOPs of one step, counted in its program."""
    return plan.program(of_batch(system, config, rows), "cpu:1").flops()


def machine() -> str:
    """Returns a description of the machine."""
    return f"{os.cpu_count()} x {platform.machine()}, {jax.devices()[0].device_kind}"


def can_compile() -> bool:
    """Returns whether torch.compile works here; on CPU it needs a C++ compiler."""
    import torch

    try:
        torch.compile(torch.sin)(torch.ones(64))
    except RuntimeError as error:
        print(f"no compiled arm, torch.compile failed: {str(error).splitlines()[0]}", flush=True)
        return False
    return True


def product_rate(size: int = 2048, rounds: int = 5) -> float:
    """Returns FLOP/s of a float32 product of two square matrices in XLA."""
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def peak() -> float:
    """Returns the reference FLOP/s for utilization: the peak of the GPU, or a large product."""
    kind = jax.devices()[0].device_kind
    if jax.default_backend() == "cpu":
        return product_rate()
    chip = chips.of_device(kind)
    if chip is None:
        raise SystemExit(f"the figures of {kind} are unknown: add them to ssl_jax/core/chips.py")
    return chip.flops


def compare(system: str, depth: int, rounds: int, rows: int, clones: int, compiled: bool) -> dict:
    """Times our step and torch's for a system -> its row of the results."""
    config, batch = base_config(system, depth, clones), make_batch(system, rows)
    makers = {"ours": functools.partial(stepping.engine_step, config, batch)}
    makers["eager"] = functools.partial(theirs, system, config, batch, False)
    if compiled:
        makers["compiled"] = functools.partial(theirs, system, config, batch, True)
    with stepping.processes(makers) as runs:
        stepping.warm(runs)
        seconds, cores = stepping.in_turns(runs, rounds)
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    best = min(s for name, s in medians.items() if name != "ours")
    return {
        "rows": rows,
        "masks": clones,
        "depth": depth,
        "seconds": {name: round(s, 4) for name, s in medians.items()},
        "ratio": round(best / medians["ours"], 3),
        "core_seconds": {name: round(statistics.median(c), 4) for name, c in cores.items()},
        "flops": flops(system, config, rows),
        "load": round(
            os.getloadavg()[0], 1
        ),  # load average of the last minute, including this benchmark
        "runs": {name: [round(s, 4) for s in times] for name, times in seconds.items()},
    }


def measure(systems: tuple[str, ...], depth: int, rounds: int, eager: bool = False) -> dict:
    """Returns the rows of all systems, with the reference rate and the machine."""
    import torch

    backend = "cpu" if jax.default_backend() == "cpu" else "gpu"
    if (backend == "gpu") != torch.cuda.is_available():
        raise SystemExit("JAX and torch must both see the GPU, or neither (JAX_PLATFORMS=cpu)")
    rate, found, compiled = peak(), {}, not eager and can_compile()
    for system in systems:
        found[system] = compare(system, depth, rounds, *ROWS[backend][system], compiled)
        found[system] |= {"peak_flops": rate, "rounds": rounds}
        found[system]["utilization"] = round(
            found[system]["flops"] / found[system]["seconds"]["ours"] / rate, 3
        )
        print(f"{SYSTEMS[system]}: {line(found[system])}", flush=True)
    return {
        "systems": found,
        "machine": machine(),
        "precision": "float32" if backend == "cpu" else "bfloat16",
        "jax": jax.__version__,
        "torch": torch.__version__,
    }


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Returns the new report, with systems only in the old one if the machine is the same."""
    same = ("machine", "precision", "jax", "torch")
    if any(old[key] != new[key] for key in same):
        return new
    return new | {"systems": old["systems"] | new["systems"]}


def line(row: dict[str, Any]) -> str:
    """Returns the times of a system as text."""
    seconds = ", ".join(f"{name} {s:.2f} s" for name, s in row["seconds"].items())
    return f"{seconds}; {row['ratio']:.2f} times the better torch"


def main() -> None:
    """Measures, prints the ratios and writes them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=tuple(SYSTEMS), default=tuple(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depth", type=int, default=12, help="blocks of the encoder")
    parser.add_argument("--eager", action="store_true", help="skip torch.compile")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    try:
        import torch  # noqa: F401
    except ImportError:
        raise SystemExit("this comparison needs torch: pip install -e '.[interop]'") from None
    for system in options.only:  # each is written at once, as the next may fail or be stopped
        report = measure((system,), options.depth, options.rounds, options.eager)
        if options.out.exists():
            report = merge(json.loads(options.out.read_text(encoding="utf-8")), report)
        atomic.write_json(options.out, report)


if __name__ == "__main__":
    main()
