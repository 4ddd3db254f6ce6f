"""BEST-RQ with a Conformer of log-mel in torch, which ours is timed against; see step_vs_torch.py.

`transformers` has no Conformer of log-mel, so it is plain torch. Axes: B clips, T mel frames, M mel
bands, S frames of the blocks, H heads, D width, K codes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_jax.nn.conformer import relative_table
from ssl_jax.ops import dsp

WIDTH, HEADS, MLP, TAPS, MELS, CHANNELS = 512, 8, 2048, 32, 80, 512
STACKED, CODES, CODE_WIDTH, DROPOUT = 4, 8192, 16, 0.1


class LogMel(nn.Module):
    """Kaldi's log-mel, each band normalized over the clip."""

    def __init__(self):
        super().__init__()
        filters = dsp.kaldi_mel(MELS, 512, 16_000, 20.0, 8_000.0)
        self.register_buffer("filters", torch.from_numpy(filters))
        self.register_buffer("window", torch.from_numpy(dsp.window_of("povey", 400)))

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """audio (B, N) in [-1, 1] -> (B, T, M)."""
        x = audio.unfold(1, 400, 160)
        x = x - x.mean(-1, keepdim=True)
        x = (x - 0.97 * torch.cat([x[..., :1], x[..., :-1]], -1)) * self.window
        power = torch.fft.rfft(x, 512).abs().square()
        cells = (power @ self.filters).clamp(min=dsp.LOG_FLOOR).log()
        cells = cells - cells.mean(1, keepdim=True)
        return cells * (cells.square().mean(1, keepdim=True) + 1e-5).rsqrt()


class FrontEnd(nn.Module):
    """Two convolutions with stride 2, projection."""

    def __init__(self):
        super().__init__()
        self.conv0 = nn.Conv2d(1, CHANNELS, 3, 2)
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, 2)
        bands = ((MELS - 3) // 2 + 1 - 3) // 2 + 1
        self.projection = nn.Linear(CHANNELS * bands, WIDTH)

    def forward(self, cells: Tensor) -> Tensor:
        """cells (B, T, M) -> (B, S, D)."""
        x = self.conv1(self.conv0(cells[:, None]).relu()).relu()
        return self.projection(x.permute(0, 2, 3, 1).flatten(2))


class Attention(nn.Module):
    """Attention with relative positions (Transformer-XL)."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.offset = nn.Linear(WIDTH, WIDTH, bias=False)
        size = WIDTH // HEADS
        self.to_key, self.to_offset = (nn.Parameter(torch.zeros(HEADS, 1, size)) for _ in range(2))

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """x (B, S, D), table (2 S - 1, D) -> (B, S, D)."""
        x, size = self.norm(x), WIDTH // HEADS
        query, key, value = (
            f(x).unflatten(2, (HEADS, size)).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        offsets = self.offset(table).unflatten(1, (HEADS, size)).transpose(0, 1)
        by_offset = (query + self.to_offset) @ offsets.transpose(1, 2)
        rows, columns = by_offset.shape[2:]
        turned = F.pad(by_offset, (1, 0)).flatten(2)[..., rows:]
        bias = turned.unflatten(2, (rows, columns))[..., :rows] / math.sqrt(size)
        y = F.scaled_dot_product_attention(query + self.to_key, key, value, attn_mask=bias)
        return self.out(y.transpose(1, 2).flatten(2))


class Convolution(nn.Module):
    """A gated linear unit, a convolution of each channel, LayerNorm, swish, Linear."""

    def __init__(self):
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.widen = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.depthwise = nn.Conv1d(WIDTH, WIDTH, TAPS, padding="same", groups=WIDTH, bias=False)
        self.narrow = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, S, D) -> (B, S, D)."""
        x = F.glu(self.widen(self.norm(x)))
        x = self.inner(self.depthwise(x.transpose(1, 2)).transpose(1, 2))
        return self.narrow(F.silu(x))


class FeedForward(nn.Sequential):
    """LayerNorm, Linear, swish, Linear."""

    def __init__(self):
        layers = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, MLP), nn.SiLU(), nn.Linear(MLP, WIDTH)
        super().__init__(*layers)


class Block(nn.Module):
    """One layer of a Conformer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = FeedForward(), FeedForward()
        self.attention, self.conv = Attention(), Convolution()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """x (B, S, D) -> (B, S, D)."""
        x = x + 0.5 * F.dropout(self.first(x), DROPOUT, self.training)
        x = x + F.dropout(self.attention(x, table), DROPOUT, self.training)
        x = x + F.dropout(self.conv(x), DROPOUT, self.training)
        return self.norm(x + 0.5 * F.dropout(self.second(x), DROPOUT, self.training))


class BestRq(nn.Module):
    """A Conformer that predicts random codes of masked frames."""

    def __init__(self, depth: int):
        super().__init__()
        self.mel, self.frontend = LogMel(), FrontEnd()
        self.vector = nn.Parameter(torch.rand(WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(WIDTH, CODES)
        self.register_buffer("projection", torch.randn(STACKED * MELS, CODE_WIDTH))
        self.register_buffer("codes", F.normalize(torch.randn(CODES, CODE_WIDTH), dim=1))

    def forward(self, audio: Tensor, mask: Tensor) -> Tensor:
        """audio (B, N), mask (B, S) bool -> loss."""
        cells = self.mel(audio)
        x = torch.where(mask[..., None], self.vector, self.frontend(cells))
        x = F.dropout(x, DROPOUT, self.training)
        table = torch.from_numpy(relative_table(x.shape[1], WIDTH)).to(x)
        for block in self.blocks:
            x = block(x, table)
        size = x.shape[1]
        with torch.no_grad():
            stacked = cells[:, : STACKED * size].unflatten(1, (size, STACKED)).flatten(2)
            labels = ((stacked @ self.projection) @ self.codes.T).argmax(-1)
        entropy = F.cross_entropy(
            self.head(x).float().flatten(0, 1), labels.flatten(), reduction="none"
        )
        return (entropy * mask.flatten()).sum() / mask.sum()
