"""BEATs and its tokenizer in torch, which ours are timed against; see step_vs_torch.py.

`transformers` has neither, so they are plain torch with its fused attention. Axes: B clips, S
patches, V visible ones, H heads, D width, K codes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_jax.nn.gated import buckets
from ssl_jax.ops import dsp

WIDTH, HEADS, MLP, BUCKETS, FAR = 768, 12, 3072, 320, 800
PATCH, BANDS, PATCH_WIDTH = 16, 8, 512
CODES, CODE_WIDTH, DECAY = 1024, 256, 0.99
MEAN, DIVISOR = 15.41663, 2 * 6.55582


class FrontEnd(nn.Module):
    """Kaldi's log-mel, patches in time-major order, LayerNorm, projection."""

    def __init__(self):
        super().__init__()
        filters = dsp.kaldi_mel(PATCH * BANDS, 512, 16_000, 20.0, 8_000.0)
        self.register_buffer("filters", torch.from_numpy(filters))
        self.register_buffer("window", torch.from_numpy(dsp.window_of("povey", 400)))
        self.patch = nn.Linear(PATCH**2, PATCH_WIDTH, bias=False)
        self.norm = nn.LayerNorm(PATCH_WIDTH)
        self.projection = nn.Linear(PATCH_WIDTH, WIDTH)

    @torch.no_grad()
    def patches(self, audio: Tensor) -> Tensor:
        """audio (B, N) in [-1, 1] -> (B, S, P)."""
        x = (audio * 32768).unfold(1, 400, 160)
        x = x - x.mean(-1, keepdim=True)
        x = (x - 0.97 * torch.cat([x[..., :1], x[..., :-1]], -1)) * self.window
        power = torch.fft.rfft(x, 512).abs().square()
        cells = ((power @ self.filters).clamp(min=dsp.LOG_FLOOR).log() - MEAN) / DIVISOR
        rows = cells.shape[1] // PATCH
        cells = cells[:, : rows * PATCH].unflatten(1, (rows, PATCH)).unflatten(3, (BANDS, PATCH))
        return cells.transpose(2, 3).reshape(len(audio), rows * BANDS, PATCH**2)

    def forward(self, cut: Tensor) -> Tensor:
        """Patches (B, S, P) -> tokens (B, S, D)."""
        return self.projection(self.norm(self.patch(cut)))


class Block(nn.Module):
    """Attention with a gated relative bias and an MLP, both with DeepNorm."""

    def __init__(self, depth: int):
        super().__init__()
        self.alpha = (2 * depth) ** 0.25
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.gate = nn.Linear(WIDTH // HEADS, 8)
        self.scale = nn.Parameter(torch.ones(HEADS, 1))
        self.up, self.down = nn.Linear(WIDTH, MLP), nn.Linear(MLP, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (B, T, D), bias (1, H, T, T) -> (B, T, D)."""
        parts = self.qkv(x).unflatten(2, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        query, key, value = parts
        first, second = self.gate(query).unflatten(3, (2, 4)).sum(-1).sigmoid().unbind(-1)
        gate = first * (second * self.scale - 1) + 2
        mask = (gate[..., None] * bias).to(query.dtype)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = self.norm1(self.alpha * x + self.out(y.transpose(1, 2).flatten(2)))
        return self.norm2(self.alpha * x + self.down(F.gelu(self.up(x))))


class Blocks(nn.Module):
    """Blocks that share one table of relative positions."""

    def __init__(self, depth: int):
        super().__init__()
        self.table = nn.Embedding(BUCKETS, HEADS)
        self.blocks = nn.ModuleList(Block(depth) for _ in range(depth))
        rows = torch.from_numpy(buckets(torch.arange(1 - FAR, FAR).numpy(), BUCKETS, FAR))
        self.register_buffer("rows", rows.long())

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        place = torch.arange(x.shape[1], device=x.device)
        rows = self.rows[place[None] - place[:, None] + FAR - 1]
        bias = self.table(rows).permute(2, 0, 1)[None]
        for block in self.blocks:
            x = block(x, bias)
        return x


class Encoder(nn.Module):
    """A convolution over the tokens, LayerNorm, blocks."""

    def __init__(self, depth: int):
        super().__init__()
        conv = nn.Conv1d(WIDTH, WIDTH, 128, padding=64, groups=16)
        self.positions = nn.utils.parametrizations.weight_norm(conv, dim=2)
        self.norm = nn.LayerNorm(WIDTH)
        self.blocks = Blocks(depth)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        near = F.gelu(self.positions(x.transpose(1, 2))[..., :-1]).transpose(1, 2)
        return self.blocks(self.norm(x + near))


class Decoder(nn.Module):
    """Linear, blocks, Linear: the label predictor, and the estimator."""

    def __init__(self, inputs: int, depth: int, outputs: int):
        super().__init__()
        self.embed, self.predict = nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, outputs)
        self.blocks = Blocks(depth)


class Beats(nn.Module):
    """BEATs with labels of a random projection."""

    def __init__(self, depth: int, predictor: int):
        super().__init__()
        self.frontend, self.encoder = FrontEnd(), Encoder(depth)
        self.predictor = Decoder(WIDTH, predictor, CODES)
        for name, shape in {
            "hidden": (PATCH**2, PATCH_WIDTH),
            "projection": (PATCH_WIDTH, CODE_WIDTH),
            "codes": (CODES, CODE_WIDTH),
        }.items():
            self.register_buffer(name, torch.randn(shape))

    @torch.no_grad()
    def labels(self, cut: Tensor) -> Tensor:
        """Returns the nearest code (B, S) of each patch."""
        x = F.layer_norm(cut @ self.hidden, (PATCH_WIDTH,))
        x = F.layer_norm(x @ self.projection, (CODE_WIDTH,))
        return (x @ self.codes.T - 0.5 * self.codes.square().sum(1)).argmax(-1)

    def forward(self, audio: Tensor, ids_keep: Tensor, masked: Tensor) -> Tensor:
        """audio (B, N), ids_keep (B, V) ascending, masked (B, S) bool -> loss."""
        cut = self.frontend.patches(audio)
        x = self.frontend(cut)
        where = ids_keep[..., None].expand(-1, -1, WIDTH)
        seen = self.predictor.embed(self.encoder(x.gather(1, where)))
        whole = torch.zeros_like(x, dtype=seen.dtype).scatter(1, where, seen)
        logits = self.predictor.predict(self.predictor.blocks(whole)).float()
        labels = self.labels(cut).flatten()
        entropy = F.cross_entropy(logits.flatten(0, 1), labels, reduction="none")
        return (entropy * masked.flatten()).sum() / masked.sum()


class Tokenizer(nn.Module):
    """The self-distilled tokenizer, taught by the last features of a frozen encoder."""

    def __init__(self, depth: int, taught: int, estimator: int):
        super().__init__()
        self.frontend, self.encoder = FrontEnd(), Encoder(depth)
        self.teacher = nn.Sequential(FrontEnd(), Encoder(taught)).requires_grad_(False)
        self.head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CODE_WIDTH))
        self.estimator = Decoder(CODE_WIDTH, estimator, WIDTH)
        self.register_buffer("codes", F.normalize(torch.randn(CODES, CODE_WIDTH), dim=1))

    def forward(self, audio: Tensor) -> Tensor:
        """audio (B, N) -> loss; it also moves the codes."""
        cut = self.frontend.patches(audio)
        z = F.normalize(self.head(self.encoder(self.frontend(cut))).float(), dim=-1)
        with torch.no_grad():
            targets = self.teacher(cut)
            ids = (z @ self.codes.T).argmax(-1)
            nearest = self.codes[ids]
            self.follow(z.flatten(0, 1), ids.flatten())
        quantized = self.estimator.embed(z + (nearest - z).detach())
        estimates = self.estimator.predict(self.estimator.blocks(quantized))
        distance = 1 - F.cosine_similarity(estimates.float(), targets.float(), dim=-1)
        return distance.mean() + F.mse_loss(z, nearest)

    def follow(self, z: Tensor, ids: Tensor) -> None:
        """Moves each code towards the mean direction of its vectors z (N, C)."""
        total = torch.zeros_like(self.codes).index_add(0, ids, z)
        used = torch.bincount(ids, minlength=CODES)[:, None] > 0
        moved = DECAY * self.codes + (1 - DECAY) * F.normalize(total, dim=1)
        self.codes.copy_(torch.where(used, F.normalize(moved, dim=1), self.codes))
