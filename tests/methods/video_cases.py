"""Tiny clips, and the sections of tiny encoders and decoders for them."""

import jax.numpy as jnp
import numpy as np

from ssl_jax.core import config as config_lib

BLOCKS = {"depth": 2, "width": 16, "heads": 2, "mlp_width": 32}
ENCODER = {"kind": "video", "image_size": 8, "frames": 4, "patch_size": 4, **BLOCKS}
DECODER = {**BLOCKS, "depth": 1}
HEARD = (0, 1)  # the rows of `moving` that have a weight


def moving(rows=3, frames=4, size=8):
    """Returns a batch of clips of noise around a moving slope; the last has weight 0."""
    draw = np.random.default_rng(0)
    slope = np.linspace(60, 180, size)[:, None] + 10 * np.arange(frames)[:, None, None]
    video = draw.normal(0, 30, (rows, frames, size, size, 3)) + slope[..., None]
    return {
        "id": jnp.arange(rows, dtype=jnp.uint32) + 7,
        "weight": jnp.ones(rows).at[-1].set(0),
        "video": jnp.asarray(video.clip(0, 255).astype(np.uint8)),
    }


def run_folder(root, tmp_path_factory, path, changes):
    """Returns a run folder, as far as a method reads it, of the toy at configs/`path`."""
    config = config_lib.load(f"{root}/configs/{path}:toy")
    with config.unlocked():
        config.method.encoder.update(changes)
    folder = tmp_path_factory.mktemp("run")
    (folder / "checkpoints" / "1").mkdir(parents=True)
    (folder / "config.json").write_text(config_lib.to_json(config))
    return str(folder)
