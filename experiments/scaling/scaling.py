"""The cost of a step per chip from 8 to 1,024 chips: python experiments/scaling/scaling.py PART

  weak      compiles data2vec 2.0 Base and HuBERT Base for v5e, with the same number of examples on
            each chip. Needs the package libtpu and no TPU; half a minute on one core per row, since
            the compilation is stopped before machine code is generated.
  fit       compiles HuBERT X-Large, ViT-H and wav2vec 2.0 with 962 M parameters for v5e, to see
            whether they fit.
  overhead  one step on 8 forced CPU devices against 1; the machine should be idle.
  picture   draws the existing rows.

Each row is written to results.json as it is made, and not made again; delete the file to start
over.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ssl_jax import plan
from ssl_jax.core import atomic, chips
from ssl_jax.core import config as config_lib
from ssl_jax.planning import collectives, tpu_dump

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / "configs"
RESULTS = HERE / "results.json"
WEAK = {"data2vec2/audio.py:base": 2, "hubert/audio.py:base": 4}  # examples per chip
TOPOLOGIES = ("v5e:2x4", "v5e:8x8", "v5e:16x16", "4xv5e:16x16")
# name, topology, overrides: sharded over all chips, one micro-batch
FIT = (
    ("mae/image.py:huge", "v5e:4x8", ("mesh.fsdp=32", "train.accumulate=1")),
    ("hubert/audio.py:xlarge", "v5e:4x8", ("mesh.fsdp=32", "data.batch_size=384")),
    ("wav2vec2/audio.py:1b", "v5e:4x8", ("mesh.fsdp=32", "data.batch_size=384")),
    ("data2vec2/image.py:huge14", "v5e:4x8", ("mesh.fsdp=32",)),
)
STEPS = 8


def asked(name: str, topology: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Runs `compiled` in a new process, which need not finish its compilation."""
    with tempfile.TemporaryDirectory() as folder:
        found = output("compiled", name, topology, *overrides, XLA_FLAGS=tpu_dump.flags(folder))
    return json.loads(found)


def compiled(name: str, topology: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Returns the cost of one step of a config per chip of a topology."""
    where = chips.topology(topology)
    more = ("config.precision=bfloat16", f"config.mesh.slice={where.slices}")
    config = config_lib.load(str(CONFIGS / name), [*more, *(f"config.{o}" for o in overrides)])
    program = plan.program(config, topology)
    done = tpu_dump.compiled(program)
    communication = collectives.totals(done.collectives)
    row = {
        "config": name,
        "topology": topology,
        "chips": where.chips,
        "slices": where.slices,
        "flops": program.flops() / where.chips,
        "held": program.held(),
        "memory": done.memory,
        "limit": where.chip.hbm,
        "collectives": communication,
        "sent": sum(kind["sent"] for kind in communication.values()),
    }
    return row | {"efficiency": efficiency(row, where)}


def efficiency(row: dict[str, Any], asked: chips.Topology) -> float:
    """Returns the share of a step that a chip computes, if no communication overlaps with products.

    A lower bound: products at the chip's peak, communication serially at the peak of its links, or
    of its share of the network between slices.
    """
    computing = row["flops"] / asked.chip.flops
    between = sum(k["sent"] for name, k in row["collectives"].items() if "between" in name)
    communicating = (
        row["sent"] - between
    ) / asked.chip.link_rate + between / asked.chip.network_rate
    return computing / (computing + communicating)


def overhead(devices: int) -> dict[str, Any]:
    """Times the step of a small data2vec 2.0 on forced CPU devices, in a new process."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    found = json.loads(output("timed", str(devices), XLA_FLAGS=flags))
    return {"config": "data2vec2/image.py:mini", "devices": devices} | found


def output(*arguments: str, **more: str) -> str:
    """Returns the output of this program in a new process, with `more` in its environment."""
    alone = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        env={**os.environ, **alone, **more},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


def timed(devices: int) -> None:
    """Prints the median seconds of a step of 32 images over the devices of this process."""
    import jax
    import numpy as np

    from ssl_jax import train
    from ssl_jax.core import mesh as mesh_lib
    from ssl_jax.engine import optim, step
    from ssl_jax.planning import batch_shapes as batch_shapes_lib

    config = config_lib.load(str(CONFIGS / "data2vec2/image.py:mini"))
    mesh = mesh_lib.make_mesh(config.mesh)
    method = train.make_method(config, 10)
    batch_shapes = batch_shapes_lib.global_batch(config, method)
    params, _ = jax.eval_shape(method.init, jax.random.key(0), batch_shapes)
    tx, schedule = optim.make(
        config.optim, params, total_steps=1000, to_steps=lambda _: 100, depth=optim.depth(params)
    )
    state, places = step.init_state(method, tx, 0, mesh, batch_shapes)
    update = step.make_step(method, tx, schedule, mesh)
    run = step.compile_step(update, mesh, places, (state, batch_shapes))
    random = np.random.default_rng(0)
    rows = {
        name: random.integers(0, 255, s.shape).astype(s.dtype) for name, s in batch_shapes.items()
    } | {"weight": np.ones(batch_shapes["weight"].shape, np.float32)}
    rows = jax.device_put(rows, mesh_lib.batch_sharding(mesh))
    totals, seconds = run.zeros(), []
    for _ in range(STEPS + 2):  # the first two compile and warm up
        start = time.perf_counter()
        state, totals, loss = run.run(state, totals, rows)
        loss.block_until_ready()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": statistics.median(seconds[2:])}))


def draw(rows: Sequence[dict[str, Any]]) -> None:
    """Draws memory, bytes sent and efficiency over the number of chips to scaling.png."""
    from ssl_jax.reports import figures

    shown: dict[str, Callable[[dict[str, Any]], float]] = {
        "Memory per chip, GiB": lambda row: used(row) / chips.GIB,
        "Sent per chip and step, GiB": lambda row: row["sent"] / chips.GIB,
        "Predicted efficiency": lambda row: row["efficiency"],
    }

    def panel(title: str) -> figures.Panel:
        def drawn(axis: Any) -> None:
            counts: set[int] = set()
            for colour, name in zip(figures.COLOURS, WEAK, strict=False):
                mine = sorted((r["chips"], shown[title](r)) for r in rows if r["config"] == name)
                axis.plot(*zip(*mine, strict=True), "o-", color=colour, label=name)
                counts |= {count for count, _ in mine}
            axis.set(title=title, xlabel="chips", xscale="log")
            axis.set_ylim(0, 1.1 * max(shown[title](row) for row in rows))
            axis.minorticks_off()
            axis.set_xticks(sorted(counts), [f"{count:,}" for count in sorted(counts)])
            figures.legend(axis, list(WEAK))

        return drawn

    title = "A step of weak scaling on v5e, as compiled"
    figures.draw(HERE / "scaling.png", title, [panel(title) for title in shown])


def used(row: dict[str, Any]) -> float:
    """Returns the bytes of memory per chip that a step takes."""
    return sum(row["memory"].values())


def add(part: str, key: dict[str, Any], make: Callable[[], Any]) -> None:
    """Adds the row of `key` to a part of the results unless it exists."""
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    rows = found.setdefault(part, [])
    if any(all(row[k] == v for k, v in key.items()) for row in rows):
        return
    print(part, key, flush=True)
    rows.append(make())
    atomic.write_json(RESULTS, found)


def main() -> None:
    """Makes the missing rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ("weak", "fit", "overhead", "picture", "timed", "compiled")
    parser.add_argument("part", choices=parts)
    parser.add_argument("given", nargs="*", help="arguments of a part that runs in its own process")
    part, given = vars(parser.parse_args()).values()
    if part == "timed":
        timed(int(given[0]))
    elif part == "compiled":
        print(json.dumps(compiled(given[0], given[1], given[2:])), flush=True)
        os._exit(0)  # without waiting for machine code
    elif part == "picture":
        draw(json.loads(RESULTS.read_text(encoding="utf-8"))["weak"])
    elif part == "overhead":
        for n in (1, 8):
            add("overhead", {"devices": n}, lambda n=n: overhead(n))
    else:
        jobs: Sequence[tuple[str, str, tuple[str, ...]]] = FIT
        if part == "weak":
            sizes = {t: chips.topology(t).chips for t in TOPOLOGIES}
            jobs = [
                (name, topology, (f"data.batch_size={each * count}",))
                for topology, count in sizes.items()
                for name, each in WEAK.items()
            ]
        for job in jobs:
            key = {"config": job[0], "topology": job[1]}
            add(part, key, lambda job=job: asked(*job))


if __name__ == "__main__":
    main()
