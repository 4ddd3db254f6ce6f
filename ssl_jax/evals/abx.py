"""ABX: is a phone closer to another token of the same phone than to one of another phone?

Schatz et al., Interspeech 2013; Libri-light, 1912.07875, section 4: for tokens A and X of one
phone and B of another, the share of triples in which X is nearer to B. 0 is perfect, 0.5 chance.
Here tokens are single phones cut at their times, A and B from one recording (same voice and room)
and X from another. Tokens differ in length, so their distance is the mean angle between frames
along the best path of dynamic time warping.

Axes: L layers, T frames, D width, N triples.
"""

import numpy as np

_BATCH = 2048  # triples that are compared at once


class Tokens:
    """The phones of several recordings with their frames, added recording by recording."""

    def __init__(self) -> None:
        """Starts without tokens."""
        self.frames: list[np.ndarray] = []  # (L, T, D) of unit length, float16
        self.phones: list[int] = []
        self.recordings: list[int] = []

    def add(
        self,
        hidden: np.ndarray,
        times: np.ndarray,
        start: np.ndarray,
        end: np.ndarray,
        phone: np.ndarray,
    ) -> None:
        """Adds a recording: hidden (L, T, D), the centres of its frames (T,) in seconds, and for
        each phone its start and end in seconds and its index among the names; 0 is silence.

        Phones that contain no frame centre are left out, as is silence.
        """
        recording = 1 + max(self.recordings, default=-1)
        norm = np.linalg.norm(hidden, axis=-1, keepdims=True)
        unit = (hidden / np.maximum(norm, 1e-12)).astype(np.float16)
        for first, last, name in zip(start, end, phone, strict=True):
            inside = slice(*np.searchsorted(times, (first, last)))
            if name and inside.stop > inside.start:
                self.frames.append(unit[:, inside])
                self.phones.append(int(name))
                self.recordings.append(recording)

    def triples(self, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Draws (tokens A, B, X (N, 3), the index of their pair of phones (N,)).

        `each` triples for every ordered pair of phones that occur together in a recording, if a
        second recording has A's phone.
        """
        rng = np.random.default_rng(seed)
        phones, recordings = np.array(self.phones), np.array(self.recordings)
        own = {p: np.flatnonzero(phones == p) for p in np.unique(phones)}
        found, pairs = [], 0
        for a, of_a in own.items():
            for b, of_b in own.items():
                both = np.intersect1d(recordings[of_a], recordings[of_b])
                if a == b or not len(both) or len(np.unique(recordings[of_a])) < 2:
                    continue
                for where in rng.choice(both, each):
                    one = rng.choice(of_a[recordings[of_a] == where])
                    other = rng.choice(of_b[recordings[of_b] == where])
                    elsewhere = rng.choice(of_a[recordings[of_a] != where])
                    found.append((one, other, elsewhere, pairs))
                pairs += 1
        table = np.array(found, np.int64).reshape(-1, 4)
        return table[:, :3], table[:, 3]

    def errors(self, each: int = 20, seed: int = 0) -> list[float]:
        """Returns the error of every layer, the mean over pairs of phones; a tie counts half.

        Raises ValueError where no pair of phones can be compared.
        """
        triples, pair = self.triples(each, seed)
        if not len(triples):
            raise ValueError(
                "no two phones can be compared: ABX needs one recording with both and another with "
                "one of them; give more recordings, such as 20"
            )
        wrong = [self._wrong(triples[i : i + _BATCH]) for i in range(0, len(triples), _BATCH)]
        of_pair = np.bincount(pair)
        return [
            float(np.mean(np.bincount(pair, weights=layer) / of_pair))
            for layer in np.concatenate(wrong, 1)
        ]

    def _wrong(self, triples: np.ndarray) -> np.ndarray:
        """Returns (L, N): 1 where X is nearer to B, 0.5 where it is equally near to A."""
        (a, b, x), layers = triples.T, len(self.frames[0])
        out = np.zeros((layers, len(triples)))
        for layer in range(layers):
            frames_x, length_x = self._padded(x, layer)
            near, far = (
                warped(frames, frames_x, length, length_x)
                for frames, length in (self._padded(a, layer), self._padded(b, layer))
            )
            out[layer] = np.where(near > far, 1.0, np.where(near == far, 0.5, 0.0))
        return out

    def _padded(self, tokens: np.ndarray, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns zero-padded frames (N, T, D) float32, and their numbers (N,)."""
        lengths = np.array([self.frames[i].shape[1] for i in tokens])
        padded = np.zeros((len(tokens), lengths.max(), self.frames[0].shape[-1]), np.float32)
        for row, i, n in zip(padded, tokens, lengths, strict=True):
            row[:n] = self.frames[i][layer]
        return padded, lengths


def warped(a: np.ndarray, b: np.ndarray, length_a: np.ndarray, length_b: np.ndarray) -> np.ndarray:
    """Returns the mean angle / pi (N,) on the best path between frames a (N, S, D), b (N, T, D).

    Frames have unit length; length_a, length_b (N,): how many are valid. A path advances in a, in b
    or in both, and the mean is over its steps.
    """
    angle = np.arccos(np.clip(np.einsum("nsd,ntd->nst", a, b), -1, 1)) / np.pi
    count, rows, columns = angle.shape
    total = np.full((count, rows + 1, columns + 1), np.inf)
    steps = np.zeros((count, rows + 1, columns + 1))
    total[:, 0, 0] = 0
    every = np.arange(count)
    for i in range(rows):
        for j in range(columns):
            before = np.stack([total[:, i, j], total[:, i, j + 1], total[:, i + 1, j]])
            taken = np.stack([steps[:, i, j], steps[:, i, j + 1], steps[:, i + 1, j]])
            best = before.argmin(0)
            total[:, i + 1, j + 1] = before[best, every] + angle[:, i, j]
            steps[:, i + 1, j + 1] = taken[best, every] + 1
    return total[every, length_a, length_b] / steps[every, length_a, length_b]
