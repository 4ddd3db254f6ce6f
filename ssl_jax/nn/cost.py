"""What a masked-prediction step costs: floating-point operations per example, in plain Python.

A multiplication and its addition count as 2; norms, softmax, GELU and the optimizer as nothing.
Training costs three forward passes of what is trained, and one of the teacher.
"""

import dataclasses
from collections.abc import Sequence

from ssl_jax.nn.conv import KERNELS, STRIDES


@dataclasses.dataclass(frozen=True)
class Cost:
    """Forward operations of the parts of one example and what follows for a training step.

    local: the front end. student and decoder (or predictor): per view. teacher: with its own
    front end, if it has one. views: masks per example.
    """

    local: float
    student: float
    teacher: float = 0.0
    decoder: float = 0.0
    views: int = 1

    @property
    def total(self) -> float:
        """Operations of one training step per example."""
        return 3 * self.local + self.teacher + self.views * 3 * (self.student + self.decoder)

    @property
    def per_view(self) -> float:
        """The same, divided by the number of views."""
        return self.total / self.views

    def shares(self) -> dict[str, float]:
        """Returns the shares of the parts in the total."""
        parts = {
            "local": 3 * self.local,
            "student": 3 * self.views * self.student,
            "teacher": self.teacher,
            "decoder": 3 * self.views * self.decoder,
        }
        return {name: value / self.total for name, value in parts.items()}


def block_flops(tokens: float, width: int, mlp_ratio: float = 4.0) -> float:
    """Returns the operations of a transformer block: projections, MLP, and attention."""
    return (8 + 4 * mlp_ratio) * tokens * width**2 + 4 * tokens**2 * width


def linear_flops(tokens: float, inputs: int, outputs: int) -> float:
    """Returns the operations of a linear layer."""
    return 2 * tokens * inputs * outputs


def conv_flops(places: float, taps: int, inputs: int, outputs: int, groups: int = 1) -> float:
    """Returns the operations of a convolution with `taps` cells in its kernel."""
    return 2 * places * taps * inputs * outputs / groups


def waveform_flops(
    samples: int,
    width: int,
    channels: int = 512,
    kernels: Sequence[int] = KERNELS,
    strides: Sequence[int] = STRIDES,
) -> float:
    """Returns the operations from samples to projected frames."""
    total, places, inputs = 0.0, samples, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        places = (places - kernel) // stride + 1
        total += conv_flops(places, kernel, inputs, channels)
        inputs = channels
    return total + linear_flops(places, channels, width)


def position_flops(
    tokens: int, width: int, depth: int = 5, kernel: int = 19, groups: int = 16
) -> float:
    """Returns the operations of the stacked position convolutions of a waveform encoder."""
    return depth * conv_flops(tokens, kernel, width, width, groups)


def decoder_flops(
    tokens: int,
    width: int,
    dim: int,
    layers: int,
    kernel: int,
    *,
    groups: int = 16,
    axes: int = 1,
    projection_layers: int = 1,
    ratio: float = 2.0,
) -> float:
    """Returns the operations of `nn.convdecoder.ConvDecoder` over all tokens, on 1 or 2 axes."""
    total, inputs = 0.0, width
    for _ in range(layers):
        total += conv_flops(tokens, kernel**axes, inputs, dim, groups)
        inputs = dim
    if projection_layers == 2:
        total += linear_flops(tokens, inputs, int(ratio * inputs))
        inputs = int(ratio * inputs)
    return total + linear_flops(tokens, inputs, width)


def data2vec2_flops(
    tokens: int,
    visible: int,
    *,
    depth: int,
    width: int,
    clones: int,
    decoder: float,
    local: float = 0.0,
    positions: float = 0.0,
    prefix: int = 0,
    own_local: bool = False,
) -> Cost:
    """Returns the cost of data2vec 2.0 with `clones` masks that leave `visible` of `tokens`.

    decoder, local, positions: forward operations of the parts of those names, the last in the
    student of every view and in the teacher. own_local: the teacher has its own front end.
    """
    student = depth * block_flops(visible + prefix, width) + positions
    teacher = depth * block_flops(tokens + prefix, width) + positions + own_local * local
    return Cost(local, student, teacher, decoder, clones)


def data2vec_flops(
    tokens: int,
    *,
    depth: int,
    width: int,
    head: float = 0.0,
    local: float = 0.0,
    positions: float = 0.0,
    prefix: int = 0,
    own_local: bool = False,
) -> Cost:
    """Returns the cost of data2vec v1, whose student encodes all tokens; `head`: the predictor."""
    encoder = depth * block_flops(tokens + prefix, width) + positions
    return Cost(local, encoder, encoder + own_local * local, head)


def mae_flops(
    tokens: int,
    visible: int,
    *,
    depth: int,
    width: int,
    decoder_depth: int,
    decoder_width: int,
    patch_size: int,
    prefix: int = 1,
) -> Cost:
    """Returns the cost of a masked autoencoder whose patches hold `patch_size` numbers."""
    decoder = (
        linear_flops(visible + prefix, width, decoder_width)
        + decoder_depth * block_flops(tokens + prefix, decoder_width)
        + linear_flops(tokens, decoder_width, patch_size)
    )
    student = depth * block_flops(visible + prefix, width)
    return Cost(linear_flops(tokens, patch_size, width), student, 0.0, decoder)
