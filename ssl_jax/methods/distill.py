"""Learning from labels and from the outputs of a frozen teacher that learned the same classes.

Hinton et al., 1503.02531. The student is that of methods/supervised.py and sees whole examples. The
teacher, a finished run of supervised learning, sees what the student sees, in evaluation mode. For
each example the loss is `label_weight` times the cross-entropy of its label, where it has one, plus
`weight` times T^2 KL(teacher || student) of both outputs at the temperature T.
"""

import dataclasses
from collections.abc import Mapping

import jax
from ml_collections import ConfigDict

from ssl_jax.core import options as options_lib
from ssl_jax.core.config import ConfigError
from ssl_jax.core.rng import Streams
from ssl_jax.core.types import FROZEN, Array, Batch, Frozen, Method, Output, Tree
from ssl_jax.methods import supervised
from ssl_jax.nn import frozen, heads
from ssl_jax.ops import losses

SCOPES = ("frontend", "encoder", "targets", "predictor", "loss")
TEACHER = "teacher"
KEY = f"config.method.teachers.{TEACHER}"


@dataclasses.dataclass(frozen=True)
class SoftOptions:
    """What counts how much; both weights 1 or any other numbers, of which one may be 0."""

    temperature: float  # divides the outputs of both sides; above 1, small ones count more
    weight: float  # of the divergence from the teacher
    label_weight: float  # of the labels

    def __post_init__(self) -> None:
        key = "config.method.soft"
        if self.temperature <= 0:
            raise ConfigError(f"{key}.temperature is {self.temperature}: use a number above 0")
        if min(self.weight, self.label_weight) < 0 or not self.weight + self.label_weight:
            raise ConfigError(
                f"{key}.weight is {self.weight} and {key}.label_weight {self.label_weight}: use 0 "
                f"or more, and not 0 for both, such as 1.0 and 0.5"
            )


@dataclasses.dataclass(frozen=True)
class Options(supervised.Options):
    """The section config.method; the other keys are explained in methods/supervised.py."""

    teachers: Mapping  # teacher: a finished run of supervised learning
    soft: SoftOptions

    def __post_init__(self) -> None:
        super().__post_init__()
        options_lib.choose("config.method.task", self.task, ("classify",))
        frozen.check_names(self.teachers, TEACHER)


def make(config: ConfigDict, *, precision: str, sample_rate: int, num_classes: int) -> Method:
    """Returns the method that config.method describes; raises ConfigError without classes."""
    options = options_lib.read(Options, config)
    student = supervised.learner(options, precision, sample_rate, num_classes)
    method = Distill(options, student, precision)
    return dataclasses.replace(
        supervised.method_of(student),
        loss=method.loss,
        scopes=SCOPES,
        frozen={TEACHER: method.declared()},
    )


@dataclasses.dataclass(frozen=True)
class Distill:
    """The loss of the method; params and all else are those of the student."""

    options: Options
    student: supervised.Supervised
    precision: str

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, streams: Streams, train: bool
    ) -> Output:
        """Returns the mean over the rows that have a weight, with a label or without."""
        o, weight = self.options.soft, batch["weight"]
        outputs, batch, shares = self.student.answer(params, batch, streams, train)

        with jax.named_scope("targets"):
            taught = extra[FROZEN][TEACHER]
            teacher = self.teacher(frozen.read(self.options.teachers[TEACHER], KEY))
            targets = jax.lax.stop_gradient(teacher.predict(taught, batch))

        with jax.named_scope("loss"):
            # 0 for a row without a label
            each, counted, metrics = self.student.evaluate(outputs, batch, shares, train)
            soft = losses.soft_divergence(outputs, targets, o.temperature)
            rows = o.label_weight * each + o.weight * soft
            loss, num_targets = losses.masked_mean(rows, weight)
            label, labels = losses.masked_mean(each, counted)
            apart, _ = losses.masked_mean(soft, weight)

        return Output(
            loss,
            num_targets,
            {
                "loss": (loss * num_targets, num_targets),
                "label_loss": (label * labels, labels),
                "soft_loss": (apart * num_targets, num_targets),
                "teacher_accuracy": losses.accuracy(targets, batch["label"], weight),
                **metrics,
            },
            extra,
        )

    def declared(self) -> Frozen:
        """Returns what is needed of the teacher's run."""

        def fresh(run: frozen.Teacher, key: Array, batch: Batch) -> Tree:
            return self.teacher(run).init(key, batch)[0]

        return Frozen(
            self.options.teachers[TEACHER],
            ("^encoder/", "^head/"),
            precision=self.precision,
            fresh=fresh,
            same_classes=True,
        )

    def teacher(self, run: frozen.Teacher) -> supervised.Supervised:
        """Returns the functions of the teacher.

        Raises ConfigError for one without classes or with another number of them, and for one that
        reads other examples.
        """
        learned, outputs = run.config.method, self.student.outputs
        if learned.get("task") != "classify":
            raise ConfigError(
                f"{KEY} {run.reference} is a run of {learned.name!r}, which learned no classes: "
                f"use one that was trained or fine-tuned with labels, such as of "
                f"configs/supervised/imagenet.py"
            )
        if run.classes and len(run.classes) != outputs:
            raise ConfigError(
                f"{KEY} {run.reference} has {len(run.classes)} classes, and the student {outputs}: "
                f"use a teacher of the same classes"
            )
        encoder = run.encoder(self.precision)
        run.check_reads(encoder, self.student.encoder)
        head = options_lib.read(heads.HeadOptions, learned.head, "config.method.head")
        options = dataclasses.replace(self.options, pool=learned.pool, head=head)
        return supervised.Supervised(options, encoder, outputs)
