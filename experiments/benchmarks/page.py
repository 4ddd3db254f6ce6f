"""The tables of the benchmarks."""

from experiments import results
from experiments.markdown import markdown

STEPS = {
    "hubert_audio": "HuBERT, waveforms of 5 s",
    "wav2vec2_audio": "wav2vec 2.0, waveforms of 5 s",
    "data2vec_audio": "data2vec v1, waveforms of 5 s",
    "data2vec2_audio": "data2vec 2.0, waveforms of 5 s",
    "lighthubert_audio": "LightHuBERT, stage 2, waveforms of 5 s",
    "data2vec2_image": "data2vec 2.0, images",
    "beats": "BEATs, spectrograms of 5 s",
    "beats_tokenizer": "BEATs' tokenizer, spectrograms of 5 s",
    "best_rq": "BEST-RQ, Conformer L of log-mel, 5 s",
    "mae": "MAE, images",
    "dmae": "DMAE, images: Large to Base",
    "moco_v3": "MoCo v3, images, Small",
}
TARGETS = {name: "1.5" if name.endswith("audio") else "1.0" for name in STEPS}


def benchmarks() -> str:
    """Returns one line per benchmark that has a results file."""
    rows = []
    loop, loader, startup = (
        results.read(f"benchmarks/{n}.json") for n in ("loop", "loader", "startup")
    )
    rows.append(
        {
            "benchmark": "`loop.py`: engine against a bare jitted loop of the same step",
            "result": f"{loop['ratio']:.2f} of its steps per second",
        }
    )
    ratios = {n: r["ratio"] for n, r in loader["hours_per_second"].items()}
    text = ", ".join(f"{r:.2f} with {n} worker{'s' * (n != '1')}" for n, r in ratios.items())
    rows.append(
        {"benchmark": "`loader.py`: hours of audio per second, relative to torch", "result": text}
    )
    deep = startup["compile_ratio_deepest_to_shallowest"]
    rows.append(
        {
            "benchmark": "`startup.py`: compile time of the deepest over the shallowest model",
            "result": f"{deep:.2f}",
        }
    )
    return markdown(rows)


def step_vs_torch(file: str) -> str:
    """Returns the table of complete pre-training steps against torch, of a results file; "-": that
    arm was not run."""
    report, rows = results.read(file), []
    for system, name in STEPS.items():
        if system not in report["systems"]:
            continue
        found = report["systems"][system]
        each = "views" if system == "moco_v3" else "masks"
        batch = f"{found['rows']} x {found['masks']} {each}, {found['depth']} blocks"
        row = {"step": name, "batch": batch, "target": TARGETS[system]}
        for arm in ("ours", "eager", "compiled"):
            seconds = found["seconds"].get(arm)
            column = arm if arm == "ours" else f"torch, {arm}"
            row[column] = "-" if seconds is None else f"{seconds:.2f} s"
        row["speed-up over the better torch"] = f"{found['ratio']:.2f}"
        busy = {arm: s for arm, s in found["core_seconds"].items() if arm != "ours"}
        row["in core-seconds"] = f"{min(busy.values()) / found['core_seconds']['ours']:.2f}"
        row["of a large product"] = f"{found['utilization']:.2f}"
        rows.append(row | {"load": f"{found['load']:.0f}"})
    rates = sorted({f"{one['peak_flops'] / 1e9:.0f}" for one in report["systems"].values()})
    about = f"{report['precision']} on {report['machine']}; a large product runs at "
    return f"{markdown(rows)}\n{about}{' to '.join(rates[:: max(1, len(rates) - 1)])} GFLOP/s.\n"


def step_vs_torch_gpu() -> str:
    """Returns the table of complete pre-training steps on a GPU against torch."""
    report, rows = results.read("benchmarks/step_vs_torch_gpu.json"), []
    for system, found in report["systems"].items():
        row = {"step": STEPS[system], "batch": f"{found['rows']} x {found['masks']} masks"}
        for arm, seconds in found["seconds"].items():
            row[arm if arm == "ours" else f"torch, {arm}"] = f"{1000 * seconds:.0f} ms"
        row["speed-up over the better torch"] = f"{found['ratio']:.2f}"
        row["model FLOPs utilization"] = f"{found['utilization']:.2f}"
        rows.append(row)
    about = f"{report['precision']} on {report['machine']}; jax {report['jax']}"
    return f"{markdown(rows)}\n{about}, torch {report['torch']}.\n"


def prediction() -> str:
    """Returns the table of predicted and measured steps, and where the predicted time goes."""
    report, rows = results.read("benchmarks/prediction.json"), []
    for system, found in report["systems"].items():
        row = {"step": STEPS[system]}
        row |= {kind: f"{found[kind]:.0f} ms" for kind in ("predicted", "measured")}
        row["predicted over measured"] = f"{found['ratio']:.2f}"
        row["parts of the prediction, ms"] = ", ".join(
            f"{name} {ms:.0f}" for name, ms in found["parts"].items()
        )
        rows.append(row)
    return f"{markdown(rows)}\nMeasured on {report['machine']}.\n"


def extraction() -> str:
    """Returns the table of the throughput of a frozen encoder by library."""
    found = results.read("benchmarks/extraction.json")
    row = {"HuBERT": f"{found['clips']} clips of {found['seconds']:g} s, {found['depth']} blocks"}
    for arm, rate in found["hours_per_second"].items():
        row[arm if arm == "ours" else f"transformers, {arm}"] = f"{rate:.4f} h/s"
    row["speed-up over the better torch"] = f"{found['ratio']:.2f}"
    return f"{markdown([row])}\nfloat32 on {found['machine']}, at a load of {found['load']:.0f}.\n"


def amortization() -> str:
    """Returns the table of the cost per mask of data2vec 2.0 by the number of masks."""
    found, rows = results.read("benchmarks/amortization.json"), []
    for m, milliseconds in found["milliseconds"].items():
        row = {"masks": m, "ms per image and mask": f"{milliseconds:.0f}"}
        row |= {name: f"{found[name][m]:.2f}" for name in ("measured", "predicted")}
        rows.append(row)
    size = f"{found['depth']} blocks, {found['rows']} images"
    return f"{markdown(rows)}\n{size}, at a load of {found['load']:.0f}.\n"


def side_by_side() -> str:
    """Returns the table of shortened programs with one job and with several."""
    rows, loads = [], []
    for name, found in results.read("benchmarks/side_by_side.json").items():
        row = {"program": name, "cores": str(found["cores"])}
        row |= {f"seconds, {n} at once": f"{s:.0f}" for n, s in found["seconds"].items()}
        rows.append(row | {"times as fast": f"{found['ratio']:.2f}"})
        loads += found["load"]
    return (
        f"{markdown(rows)}\nWith the same results, at a load of {min(loads):g} to {max(loads):g}.\n"
    )


def checkpoint() -> str:
    """Returns the table of the cost of a save and a restore at Base width."""
    found = results.read("benchmarks/checkpoint.json")
    seconds = {f"{name}, s": f"{value:.3f}" for name, value in found["seconds"].items()}
    row = {"state": f"{found['gigabytes']:.2f} GB", **seconds}
    row["blocked, share of a step"] = f"{found['share']:.1%}"
    about = f"{found['system']}, {found['depth']} blocks, batch of {found['rows']}"
    return f"{markdown([row])}\n{about}, on {found['machine']}, at a load of {found['load']:.0f}.\n"


def kmeans_speed() -> str:
    """Returns the table of k-means throughput by library."""
    found, rows = results.read("benchmarks/kmeans.json")["frames_per_second"], []
    for size, speeds in found.items():
        row = {"frames per second": size}
        row |= {name: f"{speeds[name]:,.0f}" for name in speeds["runs"]}
        rows.append(row | {"relative to scikit-learn": f"{speeds['ratio']:.2f}"})
    return markdown(rows)
