"""The arms of the LightHuBERT experiment: how each is made, and what is measured of it."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.hubert import pipeline as hubert
from experiments.hubert import recognition, steps
from experiments.lighthubert import pruning
from ssl_jax.core import config as config_lib
from ssl_jax.engine import checkpoint
from ssl_jax.nn import elastic
from ssl_jax.nn.elastic_space import Space, Subnet
from ssl_jax.pipeline import Pipe
from ssl_jax.reports import figures
from ssl_jax.stages import extraction, search
from ssl_jax.stages.graph import Stage

# arms whose features are clustered, and those that are fine-tuned: both take a while
WHOLE = ("whole supernet", "stage 1, as long as both")
CLUSTERED = (*WHOLE, "searched", "separate, same steps", "pruned", "two layers")
TUNED = (*WHOLE, "searched", "separate, same steps", "pruned and tuned", "two layers")
LATENCY_SECONDS, WARM, REPEATS = 10, 2, 25
UNIT_SHARE = 0.1  # of the training utterances, for the clusters


@dataclasses.dataclass
class Found:
    """The results so far.

    arms: {arm: {share of the parameters: {loss, pnmi, per, params, flops: a value per seed}}}.
    latency: a row per model of the first seed. scored: (parameters, loss) of the subnets that its
    searches have scored. searches: how many subnets each search has scored, and its seconds.
    """

    arms: dict[str, dict[str, dict[str, list[float]]]] = dataclasses.field(default_factory=dict)
    latency: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    scored: list[list[float]] = dataclasses.field(default_factory=list)
    searches: list[dict[str, float]] = dataclasses.field(default_factory=list)


def budget(space: Space, share: float) -> search.Options:
    """Returns the options of a search within a share of the parameters of the largest subnet."""
    return search.Options(max_params=round(share * space.params(space.largest())))


def alike(space: Space, share: float) -> Subnet:
    """Returns the largest subnet within the share whose layers are all alike."""
    return search.largest_alike(space, budget(space, share))


def random(space: Space, share: float, seed: int) -> Subnet:
    """Draws a subnet that fills at least nine tenths of the share."""
    rng, options = np.random.default_rng([7, seed]), budget(space, share)
    drawn = [search.random_subnet(space, options, rng) for _ in range(200)]
    full = (subnet for subnet in drawn if search.cost(space, subnet, options) >= 0.9)
    return next(full, max(drawn, key=space.params))


class Context:
    """Makes and measures the arms of one seed."""

    def __init__(
        self, pipe: Pipe, data: ConfigDict, teacher: Stage | None, seed: int, found: Found
    ) -> None:
        """teacher: its stage, None if the option names its folder."""
        self.pipe, self.seed, self.found = pipe, seed, found
        self.teachers = {"teacher": teacher} if teacher else {}
        self.data = steps.whole(data, 1.0)
        self.space: Space | None = None
        self.models: list[tuple[str, Stage, Subnet]] = []
        self.searches: list[Stage] = []

    def train(self, name: str, config: ConfigDict, start: Stage | None = None) -> Stage:
        """Trains a student of the teacher."""
        return self.pipe.train(f"{name}-{self.seed}", config, start=start, teachers=self.teachers)

    def section(self, supernet: Stage, subnet: Subnet) -> dict[str, Any]:
        """Returns config.method.encoder of a subnet as a model of its own."""
        own = self._student(supernet)
        return elastic.section(own.options.encoder, own.space, subnet)

    def share(self, space: Space, subnet: Subnet) -> float:
        """Returns the parameters of a subnet over those of the largest."""
        return round(space.params(subnet) / space.params(space.largest()), 2)

    def searched(self, share: float, supernet: Stage, space: Space) -> Subnet:
        """Returns the best subnet that evolution finds within a share, scored on validation."""
        self.space = space
        o = self.pipe.options
        options = dataclasses.replace(
            budget(space, share),
            population=o["population"],
            generations=o["generations"],
            seed=self.seed,
        )

        def work(folder: pathlib.Path) -> None:
            own, score = extraction.scorer(self.pipe.folder(supernet), self.data)
            best = search.search(own.space, score, options, folder).best
            figures.write_results(folder / "best.json", {"subnet": str(best)})

        about = dataclasses.asdict(options)
        name = f"search-{share}-{self.seed}"
        stage = self.pipe.stage("eval", name, about, work, (supernet,))
        self.searches.append(stage)
        folder = self.pipe.folder(stage)
        count, seconds = len(_read(folder / search.STATE)["losses"]), self.pipe.graph.seconds(stage)
        row = {"seed": self.seed, "share": share, "subnets": count, "seconds": round(seconds, 1)}
        self.found.searches.append(row)
        return space.parse(_read(folder / "best.json")["subnet"])

    def inherited(self, arm: str, share: float, supernet: Stage, subnet: Subnet) -> None:
        """Measures a subnet with the weights of the supernet, extracted."""

        def work(folder: pathlib.Path) -> None:
            extraction.extract_run(self.pipe.folder(supernet), folder, str(subnet))

        name = f"{_slug(arm)}-{share}-{self.seed}"
        about = {"subnet": str(subnet)}
        self.arm(arm, share, self.pipe.stage("export", name, about, work, (supernet,)), subnet)

    def whole(self, arm: str, run: Stage, space: Space) -> None:
        """Measures a run of the size of the supernet."""
        self.space = space
        self.arm(arm, 1.0, run, space.full())

    def pruned(self, share: float, run: Stage, subnet: Subnet) -> Stage:
        """Returns a whole student, cut to the sizes of a subnet by magnitude."""

        def work(folder: pathlib.Path) -> None:
            source = self.pipe.folder(run)
            own, params = self._student(run), checkpoint.restore_params(source)
            section, _ = own.extracted(params, subnet)
            config = config_lib.of_file(source / "config.json")
            extraction.write(folder, config, section, pruning.prune(params, own.space, subnet))

        about = {"subnet": str(subnet)}
        name = f"pruned-{share}-{run.name}"
        return self.pipe.stage("export", name, about, work, (run,))

    def arm(self, arm: str, share: float, run: Stage, subnet: Subnet) -> None:
        """Measures a run and keeps what was found."""
        assert self.space is not None
        row = {"loss": self._loss(run)}
        row |= {"params": self.space.params(subnet), "flops": self.space.flops(subnet)}
        if arm in CLUSTERED:
            row["pnmi"] = self._pnmi(run)
        if arm in TUNED and self.pipe.options["labels"]:
            row["per"] = self._phone_errors(run)
        self._keep(arm, share, row)
        if arm in ("whole supernet", "searched", "layers alike", "two layers"):
            self.models.append((f"{arm}, {share:g}", run, subnet))

    def references(self, teacher: Stage | None, run: Stage) -> None:
        """Measures the units and phones of the teacher, and of a student before any update."""
        labels = self.pipe.options["labels"]
        if teacher:
            row = {"pnmi": self._pnmi(teacher, f"teacher-{self.seed}")}
            row |= {"per": self._phone_errors(teacher, f"teacher-{self.seed}")} if labels else {}
            self._keep("teacher", 1.0, row)
        name = f"untrained-{self.seed}"
        row = {"pnmi": self._pnmi(run, name, trained=False)}
        row |= {"per": self._phone_errors(run, name, trained=False)} if labels else {}
        self._keep("untrained", 1.0, row)

    def scored(self) -> list[list[float]]:
        """Returns (parameters, loss) of all subnets that the searches have scored."""
        assert self.space is not None
        found = {}
        for stage in self.searches:
            found |= _read(self.pipe.folder(stage) / search.STATE)["losses"]
        return [[self.space.params(self.space.parse(k)), v] for k, v in found.items()]

    def latency(self) -> list[dict[str, Any]]:
        """Returns the times of each extracted model for a clip of 10 s, and its size."""
        assert self.space is not None
        models, space = self.models, self.space

        def work(folder: pathlib.Path) -> None:
            times = clock([(name, self.pipe.load(run)) for name, run, _ in models])
            figures.write_results(folder / "times.json", times)

        about = {"models": tuple(name for name, _, _ in models)}
        needs = tuple(run for _, run, _ in models)
        stage = self.pipe.stage("eval", f"latency-{self.seed}", about, work, needs)
        times = _read(self.pipe.folder(stage) / "times.json")
        return [
            {
                "model": name,
                "subnet": str(subnet),
                "params": space.params(subnet),
                "flops": space.flops(subnet),
                **times[name],
            }
            for name, _, subnet in models
        ]

    def _student(self, run: Stage) -> extraction.Student:
        folder = self.pipe.folder(run)
        return extraction.student(config_lib.of_file(folder / "config.json"), folder)

    def _loss(self, run: Stage) -> float:
        """Returns the loss on the test split, with the same masks for all."""

        def work(folder: pathlib.Path) -> None:
            _, score = extraction.scorer(self.pipe.folder(run), self.data, "test")
            figures.write_results(folder / "loss.json", {"loss": score([None])[0]})

        about = {"data": config_lib.flatten(self.data), "seed": self.seed}
        stage = self.pipe.stage("eval", f"loss-{run.name}", about, work, (run,))
        return float(_read(self.pipe.folder(stage) / "loss.json")["loss"])

    def _keep(self, arm: str, share: float, row: dict[str, float]) -> None:
        kept = self.found.arms.setdefault(arm, {}).setdefault(f"{share:g}", {})
        for key, value in row.items():
            kept.setdefault(key, []).append(value)

    def _pnmi(self, run: Stage, name: str = "", trained: bool = True) -> float:
        """Returns the phone-normalized mutual information of the best layer's units."""
        data = steps.whole(self.data, UNIT_SHARE)
        data.valid = ConfigDict({})
        options = hubert.kmeans_options(self.pipe.options["clusters"], self.seed)
        rows = steps.quality(
            self.pipe, f"units-{name or run.name}", data, options, run, not trained
        )
        return max(row["pnmi"] for row in rows)

    def _phone_errors(self, run: Stage, name: str = "", trained: bool = True) -> float:
        """Returns the phone errors after training with CTC on few labels."""
        encoder = config_lib.of_file(self.pipe.folder(run) / "config.json").method.encoder
        size = {k: v for k, v in encoder.to_dict().items() if k not in ("kind", "preset")}
        given = self.pipe, self.data, "phones", self.seed, size, trained
        config, start = recognition.labelled_config(*given), run if trained else None
        tuned = self.pipe.train(f"phones-{name or run.name}", config, start=start)
        return float(figures.read_metrics(self.pipe.folder(tuned), "valid/per")[1][-1])


def clock(models: Sequence[tuple[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns {model: median milliseconds, and those of all cores together, for a clip}.

    Models take turns, so that load on the machine affects all alike; each first runs twice, to
    compile and to fill caches.
    """
    audio = np.random.default_rng(0).integers(-3000, 3000, (1, 16000 * LATENCY_SECONDS), np.int16)
    batch = {"audio": audio, "audio_len": np.array([audio.shape[1]], np.int32)}
    runs = {}
    for name, model in models:
        features = jax.jit(model.method.features)
        runs[name] = lambda features=features, params=model.params: jax.block_until_ready(
            features(params, batch).hidden_states
        )
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(WARM + REPEATS):
        for name, run in runs.items():
            start, busy = time.perf_counter(), time.process_time()
            run()
            if turn >= WARM:
                taken[name].append((time.perf_counter() - start, time.process_time() - busy))
    return {
        name: dict(zip(("ms", "core_ms"), 1000 * np.median(each, 0), strict=True))
        for name, each in taken.items()
    }


def _slug(arm: str) -> str:
    return arm.replace(",", "").replace(" ", "-")


def _read(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
