"""How much of a spectrogram is hidden in whole time steps and mel bands (AudioMAE, 2207.06405)."""

import dataclasses

from ssl_jax.core.config import ConfigError
from ssl_jax.core.types import Array
from ssl_jax.ops import masks


@dataclasses.dataclass(frozen=True)
class StripeOptions:
    """The section config.method.stripes; 0.0 for both hides no stripes."""

    time: float  # share of the time steps of a clip that is hidden, with all of their patches
    frequency: float  # the same of the bands of mel patches

    def __post_init__(self) -> None:
        for name in ("time", "frequency"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ConfigError(
                    f"config.method.stripes.{name} is {value}: use 0 to below 1, such as 0.3"
                )

    @property
    def active(self) -> bool:
        """Whether any stripe is hidden."""
        return self.time > 0 or self.frequency > 0

    def kept(self, rows: int, columns: int) -> tuple[list[int], int]:
        """Returns how many time steps of a clip of 0 to `rows` stay visible, and how many bands.

        That is int(n * (1 - share)), and 1 or more of what there is.
        """
        steps = [min(n, max(1, int(n * (1 - self.time)))) for n in range(rows + 1)]
        return steps, max(1, int(columns * (1 - self.frequency)))

    def visible(self, size: int, columns: int) -> list[int]:
        """Returns how many patches of a clip with 0 to `size` real ones stay visible."""
        steps, bands = self.kept(size // columns, columns)
        return [steps[n // columns] * bands for n in range(size + 1)]

    def draw(self, keys: Array, real: Array, columns: int) -> tuple[Array, Array]:
        """keys (B,), real (B, S) -> ids_shuffle (B, S), visible ids first; mask (B, S) bool."""
        steps, bands = self.kept(real.shape[1] // columns, columns)
        return masks.stripes_visible(keys, real, columns, steps, bands)
