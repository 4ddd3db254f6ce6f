"""How the parameters of the encoders are sharded over the mesh; shared by all methods."""

from ssl_jax.core.types import Rules

# The last axes of each array are named; a leading layer axis is not sharded. Matrices into heads
# and hidden units are sharded by column over `model`, those back out by row, so that a block needs
# one reduction per branch; the other side is sharded over `fsdp` and gathered layer by layer when
# used.
RULES: Rules = (
    (r"(query|key|value|up)/kernel", ("fsdp", "model")),
    (r"(query|key|value|up)/bias", ("model",)),
    (r"(out|down)/kernel", ("model", "fsdp")),
    (r"kernel", ("fsdp",)),
    (r".*", ()),
)
