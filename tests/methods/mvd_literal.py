"""MVD written out literally: one clip at a time, lists of ids. NumPy in float64.

Parameters are flat dicts of path names. It follows 2212.04500.
"""

import numpy as np
from mae_literal import _norm, _part, position
from videomae_literal import MEAN, STD, cubes, decoded, embedded, flat_position, states


def space_time(grid, place, width):
    """The vector (D,) of a place: a quarter for the step, then MAE's for column and row."""
    step, rest = divmod(place, grid[1] * grid[2])
    row, column = divmod(rest, grid[2])
    waves = 10000.0 ** -(np.arange(width // 8) / (width // 8))
    time = np.concatenate([np.sin(step * waves), np.cos(step * waves)])
    return np.concatenate([time, position(row, column, width - width // 4)])


def of_image(teacher, clip, size):
    """The features (S, E) of a teacher of images: of the first frame of every two, one by one."""
    found = []
    for frame in clip[::2]:
        x = (np.asarray(frame, np.float64) / 255 - MEAN) / STD
        side = len(x) // size
        tokens = []
        for i in range(side):
            for j in range(side):
                patch = x[size * i : size * i + size, size * j : size * j + size].ravel()
                kernel, bias = (teacher[f"frontend/projection/{k}"] for k in ("kernel", "bias"))
                tokens.append(patch @ kernel + bias + position(i, j, kernel.shape[1]))
        y = states(teacher, np.stack([teacher["cls"], *tokens]))[-1]
        found.append(y[1:])
    return np.concatenate(found)


def of_video(teacher, clip, size):
    """The features (S, E) of a teacher of clips."""
    return states(teacher, embedded(teacher, clip, size, flat_position))[-1]


def distance(a, b, targets):
    """The mean distance of two vectors."""
    d = np.abs(a - b)
    if targets["loss"] == "l1":
        return d.mean()
    if targets["loss"] == "l2":
        return (d**2).mean()
    beta = targets["beta"]
    return np.where(d < beta, d**2 / (2 * beta), d - beta / 2).mean()


def loss(params, teachers, clips, masks, grid, size, targets):
    """The sum over teachers of the mean distance at hidden tubelets; masks (S,) bool."""
    encoder, total = _part(params, "encoder/"), 0.0

    def places(i, width):
        return space_time(grid, i, width)

    for name, whole in teachers.items():
        teacher, decoder = _part(whole, "encoder/"), _part(params, f"decoders/{name}/")
        look = of_image if name == "image" else of_video
        errors = []
        for clip, mask in zip(clips, masks, strict=True):
            assert len(mask) == len(cubes(clip, size))
            visible, hidden = np.flatnonzero(~mask).tolist(), np.flatnonzero(mask).tolist()
            x = embedded(encoder, clip, size, places, visible)
            x = _norm(states(encoder, x)[-1], encoder, "final_norm")
            y = decoded(decoder, x, visible, hidden, places)
            features = look(teacher, clip, size)
            if targets["norm"] == "layer":
                centred = features - features.mean(1, keepdims=True)
                features = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6)
            errors += [distance(y[k], features[i], targets) for k, i in enumerate(hidden)]
        total += targets[f"{name}_weight"] * np.mean(errors)
    return total
