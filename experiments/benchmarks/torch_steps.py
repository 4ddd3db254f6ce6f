"""Pre-training steps in torch that ours are timed against; see step_vs_torch.py.

wav2vec 2.0, HuBERT, data2vec v1 and MAE use the modules of `transformers`; data2vec 2.0, which it
lacks, uses plain torch. Masks come from the caller, as from a data worker. Axes: B examples, M
views of each, N = B * M, S tokens, V visible tokens, H masked tokens.
"""

import contextlib
import copy
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    Data2VecAudioConfig,
    HubertConfig,
    HubertModel,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    Wav2Vec2Config,
    Wav2Vec2ForPreTraining,
)
from transformers.models.data2vec import modeling_data2vec_audio as d2v_audio
from transformers.models.wav2vec2 import modeling_wav2vec2

WIDTH, HEADS = 768, 12
TAU = 0.999
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Trainer:
    """A model whose forward pass returns its loss, with AdamW and an EMA teacher.

    The optimizer is fused and the EMA one call for all parameters, the fastest torch has for both.
    """

    def __init__(self, model: nn.Module, inputs: dict[str, Tensor], compiled: bool, clip: float):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.to(device).train()
        self.inputs = {name: x.to(device) for name, x in inputs.items()}
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=0.01, fused=True)
        pairs = getattr(model, "follows", ())  # (teacher, student)
        self.teacher = [p for teacher, _ in pairs for p in teacher.parameters()]
        self.student = [p.detach() for _, student in pairs for p in student.parameters()]
        self.forward = torch.compile(model) if compiled else model
        self.clip = clip
        # float32 parameters and bfloat16 products, as ours on an accelerator
        self.precision = (
            torch.autocast("cuda", torch.bfloat16) if device == "cuda" else contextlib.nullcontext()
        )

    def step(self) -> float:
        """Makes one update, waits for it and returns its loss."""
        with self.precision:
            loss = self.forward(**self.inputs)
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.teacher:
            with torch.no_grad():
                torch._foreach_lerp_(self.teacher, self.student, 1 - TAU)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return float(loss.detach())


def _pick(x: Tensor, ids: Tensor) -> Tensor:
    """Gathers tokens of x (N, S, D) at indices (N, V)."""
    return x.gather(1, ids[..., None].expand(-1, -1, x.shape[-1]))


def _targets(layers: Sequence[Tensor]) -> Tensor:
    """Returns the mean of layers (B, S, D), each normalized over time, in float32."""
    normed = [F.instance_norm(y.float().transpose(1, 2)) for y in layers]
    return torch.stack(normed).mean(0).transpose(1, 2)


class WaveformFrontEnd(nn.Module):
    """The convolutions and the projection of `transformers`' Data2VecAudioModel."""

    def __init__(self, config: Data2VecAudioConfig):
        super().__init__()
        self.convs = d2v_audio.Data2VecAudioFeatureEncoder(config).conv_layers
        self.projection = d2v_audio.Data2VecAudioFeatureProjection(config)

    def forward(self, audio: Tensor) -> Tensor:
        """audio (B, N) float -> frames (B, S, D)."""
        x = F.layer_norm(audio, audio.shape[-1:])[:, None]
        # one by one: their common module also computes the gradient of the waveform
        for conv in self.convs:
            x = conv(x)
        return self.projection(x.transpose(1, 2))[0]


def audio_config(depth: int) -> Data2VecAudioConfig:
    """Returns data2vec Base without layerdrop: `transformers` skips dropped blocks, we do not."""
    return Data2VecAudioConfig(
        num_hidden_layers=depth, activation_dropout=0.0, layerdrop=0.0, feat_proj_dropout=0.0
    )


class Data2VecAudio(nn.Module):
    """data2vec v1 on waveforms, with the encoder of `transformers`."""

    def __init__(self, depth: int, top: int):
        super().__init__()
        config = audio_config(depth)
        self.top = top
        self.frontend = WaveformFrontEnd(config)
        self.student = d2v_audio.Data2VecAudioEncoder(config)
        # as the full model does for its parts
        for module in self.student.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        self.student.config._attn_implementation = "sdpa"
        self.mask = nn.Parameter(torch.rand(WIDTH))
        self.predictor = nn.Linear(WIDTH, WIDTH)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.follows = ((self.teacher, self.student),)

    def train(self, mode: bool = True) -> nn.Module:
        """Keeps the teacher in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, audio: Tensor, mask: Tensor, ids_masked: Tensor) -> Tensor:
        """audio (B, N), mask (B, S) bool, ids_masked (B, H) where it is true -> loss."""
        x = self.frontend(audio)
        masked_input = torch.where(mask[..., None], self.mask.to(x.dtype), x)
        y = self.student(masked_input).last_hidden_state
        with torch.no_grad():
            targets = _pick(self.teach(x), ids_masked)
        error = self.predictor(_pick(y, ids_masked)).float() - targets
        return error.square().sum(-1).mean() * WIDTH**-0.5

    def teach(self, x: Tensor) -> Tensor:
        """Returns the targets (B, S, D): the mean of the top outputs of the MLPs."""
        x, outputs = self.teacher.layer_norm(x + self.teacher.pos_conv_embed(x)), []
        for layer in self.teacher.layers:
            x = layer.layer_norm(x + layer.attention(x)[0])
            outputs.append(layer.feed_forward(x))
            x = layer.final_layer_norm(x + outputs[-1])
        return _targets(outputs[-self.top :])


# Base as published without layerdrop: `transformers` skips dropped blocks, we do not
SPEECH = {"layerdrop": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.1}


class Hubert(nn.Module):
    """HuBERT's objective, which `transformers` lacks, on top of its HubertModel."""

    def __init__(self, depth: int, units: int):
        super().__init__()
        self.model = HubertModel(HubertConfig(num_hidden_layers=depth, **SPEECH))
        # otherwise it also computes the gradient of the waveform
        self.model.feature_extractor._requires_grad = False
        self.projection = nn.Linear(WIDTH, 256)
        self.units = nn.Parameter(torch.rand(units, 256))

    def forward(self, audio: Tensor, mask: Tensor, ids_masked: Tensor, units: Tensor) -> Tensor:
        """audio (B, N), mask (B, S) bool, ids_masked (B, H) and units (B, H) there -> loss."""
        raw = self.model.feature_extractor(audio).transpose(1, 2)
        raw = torch.lerp(raw.detach(), raw, 0.1)  # scales the gradient by 0.1
        x = self.model.feature_projection(raw)
        x = torch.where(mask[..., None], self.model.masked_spec_embed.to(x.dtype), x)
        y = self.model.encoder(x).last_hidden_state
        y = F.normalize(self.projection(_pick(y, ids_masked)).float(), dim=-1)
        logits = y @ F.normalize(self.units, dim=-1).T / 0.1
        loss = F.cross_entropy(logits.flatten(0, 1), units.flatten().long())
        return loss + 10 * raw.float().square().mean()


class Wav2Vec2(nn.Module):
    """`transformers`' Wav2Vec2ForPreTraining, which has no feature penalty."""

    def __init__(self, depth: int):
        super().__init__()
        self.model = Wav2Vec2ForPreTraining(Wav2Vec2Config(num_hidden_layers=depth, **SPEECH))
        self.model.wav2vec2.feature_extractor._requires_grad = False
        # its own version indexes by a mask, which breaks the graph of torch.compile
        self.model.wav2vec2._mask_hidden_states = self._mask

    def forward(self, audio: Tensor, mask: Tensor, negatives: Tensor) -> Tensor:
        """audio (B, N), mask (B, S) bool, negatives (B, S, K) indices in the batch -> loss."""
        found = self.model(
            audio, mask_time_indices=mask, sampled_negative_indices=negatives, return_dict=True
        )
        return found.loss / mask.sum()

    def _mask(self, x: Tensor, mask_time_indices: Tensor, attention_mask: None) -> Tensor:
        """Replaces frames of x (B, S, D) where the mask (B, S) is true."""
        vector = self.model.wav2vec2.masked_spec_embed.to(x.dtype)
        return torch.where(mask_time_indices[..., None], vector, x)


def negatives(mask: np.ndarray, count: int) -> np.ndarray:
    """mask (B, S) bool -> indices of negatives (B, S, count) as `transformers` draws them."""
    drawn = modeling_wav2vec2._sample_negative_indices(mask.shape, count, mask)
    return drawn.astype(np.int64)


class MAE(nn.Module):
    """`transformers`' ViTMAEForPreTraining on uint8 pixels."""

    def __init__(self, depth: int):
        super().__init__()
        config = ViTMAEConfig(num_hidden_layers=depth, layer_norm_eps=1e-6, norm_pix_loss=True)
        self.model = ViTMAEForPreTraining(config)

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        """image (B, 3, 224, 224) uint8, noise (B, S): the smallest quarter is visible -> loss."""
        return self.model(pixel_values=normalize(image), noise=noise).loss


def normalize(image: Tensor) -> Tensor:
    """uint8 pixels (B, 3, H, W) -> the normalized ones of ImageNet."""
    mean, std = (torch.tensor(v, device=image.device)[:, None, None] for v in (MEAN, STD))
    return (image.float() / 255 - mean) / std


class Block(nn.Module):
    """A post-norm block that also returns the output of its MLP."""

    def __init__(self, eps: float, dropout: float):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps), nn.LayerNorm(WIDTH, eps)
        self.dropout = dropout
        for linear in (self.qkv, self.out, self.up, self.down):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (N, T, D), bias (N, heads, T, T) or None -> (output, output of the MLP)."""
        p = self.dropout if self.training else 0.0
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        bias = None if bias is None else bias.to(q.dtype)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=p)
        y = self.out(y.transpose(1, 2).flatten(2))
        x = self.norm1(x + F.dropout(y, p, self.training))
        ffn = self.down(F.gelu(self.up(x)))
        return self.norm2(x + F.dropout(ffn, p, self.training)), ffn


class Context(nn.Module):
    """The encoder of data2vec 2.0 after its local part, over visible tokens or over all."""

    def __init__(self, depth: int, eps: float, dropout: float, audio: bool):
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(WIDTH, eps)
        self.blocks = nn.ModuleList(Block(eps, dropout) for _ in range(depth))
        self.positions = self.scale = self.prefix = None
        if audio:
            self.positions = d2v_audio.Data2VecAudioPositionalConvEmbedding(audio_config(depth))
            self.scale = nn.Parameter(torch.ones(HEADS, 1, 1))
        else:
            self.prefix = nn.Parameter(torch.randn(1, 1, WIDTH))

    def forward(self, x: Tensor, ids_keep: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """x (N, S, D), ids_keep (N, V) or None -> ((N, T, D), outputs of the MLPs)."""
        if self.positions is not None:
            if ids_keep is not None:
                visible = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
                x = x * visible.scatter(1, ids_keep, True)[..., None]
            x = x + self.positions(x)
        bias = None if self.scale is None else self._bias(x, ids_keep)
        x = x if ids_keep is None else _pick(x, ids_keep)
        if self.prefix is not None:
            x = torch.cat([self.prefix.to(x.dtype).expand(len(x), -1, -1), x], 1)
        x, outputs = F.dropout(self.norm(x), self.dropout, self.training), []
        for block in self.blocks:
            x, ffn = block(x, bias)
            outputs.append(ffn)
        return x, outputs

    def _bias(self, x: Tensor, ids_keep: Tensor | None) -> Tensor:
        """Returns the learned ALiBi (N or 1, heads, T, T)."""
        ids = torch.arange(x.shape[1], device=x.device)[None] if ids_keep is None else ids_keep
        powers = [i + 1.0 for i in range(8)] + [i + 0.5 for i in range(4)]
        slopes = 2.0 ** -torch.tensor(powers, device=x.device)[:, None, None]
        far = (ids[:, None, :, None] - ids[:, None, None, :]).abs()
        return -far * slopes * self.scale.clamp(min=0)


class ConvDecoder(nn.Module):
    """Grouped convolutions over a sequence or a grid, then a linear layer."""

    def __init__(self, grid: bool):
        super().__init__()
        conv = nn.Conv2d if grid else nn.Conv1d
        dim, kernel, layers = (WIDTH, 3, 6) if grid else (384, 7, 4)
        self.convs = nn.ModuleList(
            conv(dim if i else WIDTH, dim, kernel, padding=kernel // 2, groups=16)
            for i in range(layers)
        )
        self.projection = nn.Linear(dim, WIDTH)

    def forward(self, x: Tensor, shape: tuple[int, ...], ids_masked: Tensor) -> Tensor:
        """x (N, S, D) of tokens that fill `shape`, ids_masked (N, H) -> predictions there."""
        for conv in self.convs:
            y = conv(x.transpose(1, 2).unflatten(2, shape)).flatten(2).transpose(1, 2)
            y = F.gelu(F.layer_norm(y, y.shape[-1:]))
            x = x + y if x.shape == y.shape else y
        return self.projection(_pick(x, ids_masked)).float()


class Data2Vec2(nn.Module):
    """data2vec 2.0: visible tokens of M views of each example, one pass of the teacher."""

    def __init__(self, depth: int, top: int, clones: int, audio: bool, shape: tuple[int, ...]):
        super().__init__()
        self.top, self.clones, self.audio, self.shape = top, clones, audio, shape
        eps, self.dropout, self.cls_weight = (1e-5, 0.1, 0.0) if audio else (1e-6, 0.0, 2.56)
        self.local = WaveformFrontEnd(audio_config(depth)) if audio else nn.Conv2d(3, WIDTH, 16, 16)
        if not audio:
            # fixed; the values do not affect the time
            self.register_buffer("table", 0.02 * torch.randn(1, shape[0] * shape[1], WIDTH))
        self.student = Context(depth, eps, self.dropout, audio)
        self.decoder = ConvDecoder(grid=not audio)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.own = None if audio else copy.deepcopy(self.local).requires_grad_(False)
        self.follows = ((self.teacher, self.student),)
        if self.own is not None:
            self.follows += ((self.own, self.local),)

    def train(self, mode: bool = True) -> nn.Module:
        """Keeps the teacher in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def tokens(self, local: nn.Module, signal: Tensor) -> Tensor:
        """Returns the local tokens (B, S, D) of waveforms (B, N) or of images (B, 3, H, W)."""
        if self.audio:
            return local(signal)
        return local(signal).flatten(2).transpose(1, 2) + self.table

    def forward(
        self, signal: Tensor, ids_keep: Tensor, ids_restore: Tensor, ids_masked: Tensor
    ) -> Tensor:
        """ids_keep (N, V), ids_masked (N, H), ids_restore (N, S), which sorts both back -> loss."""
        signal = signal if self.audio else normalize(signal)
        x = self.tokens(self.local, signal)
        y, _ = self.student(x.repeat_interleave(self.clones, 0), ids_keep)
        with torch.no_grad():
            clean = x if self.own is None else self.tokens(self.own, signal)
            _, outputs = self.teacher(clean, None)
            targets = _targets([t[:, t.shape[1] - x.shape[1] :] for t in outputs[-self.top :]])
            if not self.audio:
                targets = F.layer_norm(targets, targets.shape[-1:])
            views = targets.repeat_interleave(self.clones, 0)
        prefix = y.shape[1] - ids_keep.shape[1]
        z = F.dropout(y[:, prefix:], self.dropout, self.training)
        noise = 0.01 * torch.randn(*ids_masked.shape, WIDTH, device=z.device, dtype=z.dtype)
        z = _pick(torch.cat([z, noise], 1), ids_restore)
        error = self.decoder(z, self.shape, ids_masked) - _pick(views, ids_masked)
        loss = error.square().sum(-1).mean()
        if prefix:
            cls = y[:, 0].float() - views.mean(1)
            loss = loss + self.cls_weight * cls.square().sum(-1).mean()
        return loss * WIDTH**-0.5
