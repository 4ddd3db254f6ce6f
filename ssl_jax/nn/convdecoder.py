"""The convolutional decoder of data2vec 2.0 (2212.07525, section 3.2), over sequences and grids."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.core.types import Array
from ssl_jax.nn.conv import grouped_conv
from ssl_jax.nn.transformer import INITS, gelu, layer_norm


@dataclasses.dataclass(frozen=True)
class DecoderOptions:
    """The section config.method.decoder."""

    layers: int  # convolutions; 0: none, the encoder then takes the masked tokens as well
    dim: int  # channels of the convolutions
    groups: int
    kernel: int
    residual: bool  # around each convolution whose input and output are equally wide
    input_dropout: float  # on the visible tokens, before noise fills the masked places
    noise_std: float  # of the noise in the masked places
    # linear layers at the end: the first of two is `ratio` times as wide, with a GELU after it
    projection_layers: int
    ratio: float
    init: str  # of the linear layers, as config.method.encoder.init

    def __post_init__(self) -> None:
        key = "config.method.decoder"
        for name, least in (("layers", 0), ("dim", 1), ("groups", 1), ("kernel", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{key}.{name} is {getattr(self, name)}: use {least} or more")
        if self.projection_layers not in (1, 2):
            raise ValueError(f"{key}.projection_layers is {self.projection_layers}: use 1 or 2")
        if not 0 <= self.input_dropout < 1:
            raise ValueError(
                f"{key}.input_dropout is {self.input_dropout}: use 0.0 or more and below 1"
            )
        if self.noise_std < 0:
            raise ValueError(f"{key}.noise_std is {self.noise_std}: use 0.0 or more, such as 0.01")
        if self.init not in INITS:
            raise ValueError(f"{key}.init is {self.init!r}: use one of {', '.join(INITS)}")

    def check_width(self, width: int) -> None:
        """Raises ValueError unless the groups divide all channel counts."""
        for name, channels in (("encoder.width", width), ("decoder.dim", self.dim)):
            if self.layers and channels % self.groups:
                raise ValueError(
                    f"config.method.decoder.groups {self.groups} does not divide "
                    f"config.method.{name} {channels}: use a divisor of both, such as 1"
                )


class ConvDecoder(nn.Module):
    """Convolutions over all places, then one or two linear layers.

    A layer is a grouped convolution, LayerNorm over channels without parameters, GELU, and the
    residual where the widths agree. No positions are added: those that the visible tokens carry
    and the zeros around the border have to suffice.
    """

    options: DecoderOptions
    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, noise: Array, mask: Array, valid: Array, train: bool = False
    ) -> Array:
        """x, noise (B, *places, D), mask, valid (B, *places) -> predictions (B, *places, D).

        x holds the encoder's output where `mask` is false; `noise` fills the other places.
        Places that are not valid (padding) are zeroed before every convolution, so that they
        do not affect real ones. The predictions are float32.
        """
        o = self.options
        places = x.shape[1:-1]
        x = nn.Dropout(o.input_dropout, deterministic=not train)(x.astype(self.dtype))
        x = jnp.where(mask[..., None], noise.astype(self.dtype), x)
        for i in range(o.layers):
            x = jnp.where(valid[..., None], x, 0)
            y = nn.Conv(
                o.dim,
                (o.kernel,) * len(places),
                padding=[(o.kernel // 2,) * 2] * len(places),
                feature_group_count=o.groups,
                kernel_init=INITS["torch"],
                dtype=self.dtype,
                conv_general_dilated=grouped_conv,
                name=f"conv{i}",
            )(x)
            # an even kernel gives one row too many on each axis
            y = y[(slice(None), *(slice(n) for n in places))]
            y = gelu(layer_norm(1e-5, self.dtype, affine=False)(y))
            x = x + y if o.residual and x.shape == y.shape else y
        return self._project(x).astype(jnp.float32)

    def _project(self, x: Array) -> Array:
        o, init = self.options, INITS[self.options.init]
        if o.projection_layers == 2:
            wide = int(o.ratio * x.shape[-1])
            x = gelu(nn.Dense(wide, dtype=self.dtype, kernel_init=init, name="up")(x))
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name="projection")(x)
