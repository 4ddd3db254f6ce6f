"""The step of a LightHuBERT supernet in torch that ours is timed against; see step_vs_torch.py.

Both models are those of `transformers`. A subnet takes leading slices of the student's weights, so
that it computes no more products than it has; ours computes in full width and masks. Axes: B
examples, S frames, E width of the subnet, H masked frames.
"""

import math
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel

from experiments.benchmarks.torch_steps import SPEECH, WIDTH, _pick

HEAD = 64  # channels of one head


class Choices(NamedTuple):
    """The subnets of a space: of the whole net the width, of every block heads and ratio."""

    embed: Sequence[int]
    heads: Sequence[int]
    ratios: Sequence[float]


class LightHubert(nn.Module):
    """A frozen HuBERT, and a student of which every forward pass trains another subnet.

    largest: always the largest subnet, for torch.compile, which would compile every other anew.
    """

    def __init__(self, depth: int, teacher: int, top: int, choices: Choices, largest: bool):
        super().__init__()
        options = {**SPEECH, "attention_dropout": 0.0, "feat_extract_norm": "layer"}
        self.student = HubertModel(HubertConfig(num_hidden_layers=depth, **options))
        # otherwise it also computes the gradient of the waveform
        self.student.feature_extractor._requires_grad = False
        config = HubertConfig(num_hidden_layers=teacher)
        self.teacher = HubertModel(config).requires_grad_(False)
        self.teacher.config._attn_implementation = "sdpa"
        self.head = nn.Linear(WIDTH, WIDTH, bias=False)
        self.top, self.choices, self.largest = top, choices, largest
        self.random = random.Random(0)

    def train(self, mode: bool = True) -> nn.Module:
        """Keeps the teacher in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, audio: Tensor, mask: Tensor, ids_masked: Tensor) -> Tensor:
        """audio (B, N), mask (B, S) bool, ids_masked (B, H) where it is true -> loss."""
        with torch.no_grad():
            targets = _pick(self.teach(audio), ids_masked)
        y = _pick(self.encode(audio, mask), ids_masked)
        found = F.linear(y, self.head.weight[:, : y.shape[-1]])
        return (found.float() - targets.float()).abs().mean()

    def teach(self, audio: Tensor) -> Tensor:
        """Returns the mean of the top outputs of the teacher's MLPs, (B, S, D)."""
        model, outputs = self.teacher, []
        x = model.feature_projection(model.feature_extractor(audio).transpose(1, 2))
        encoder = model.encoder
        x = encoder.layer_norm(x + encoder.pos_conv_embed(x))
        for layer in encoder.layers:
            x = layer.layer_norm(x + layer.attention(x)[0])
            outputs.append(layer.feed_forward(x))
            x = layer.final_layer_norm(x + outputs[-1])
        return torch.stack(outputs[-self.top :]).mean(0)

    def encode(self, audio: Tensor, mask: Tensor) -> Tensor:
        """Returns the last layer of a subnet, (B, S, E)."""
        model, embed, drop = self.student, self._choose(self.choices.embed), self._drop
        audio = F.layer_norm(audio, audio.shape[-1:])
        first = model.feature_projection
        x = first.layer_norm(model.feature_extractor(audio).transpose(1, 2))
        x = drop(_linear(x, first.projection, embed))
        x = torch.where(mask[..., None], model.masked_spec_embed[:embed].to(x.dtype), x)
        x = drop(_norm(x + self._positions(x), model.encoder.layer_norm))
        for layer in model.encoder.layers:
            heads, ratio = self._choose(self.choices.heads), self._choose(self.choices.ratios)
            x = _norm(x + drop(_attend(x, layer.attention, heads)), layer.layer_norm)
            x = _norm(x + drop(_mlp(x, layer.feed_forward, ratio)), layer.final_layer_norm)
        return x

    def _choose(self, values: Sequence) -> int | float:
        return values[-1] if self.largest else self.random.choice(values)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.1, self.training)

    def _positions(self, x: Tensor) -> Tensor:
        """The position convolution of x (B, S, E), whose kernel is scaled as a whole, then cut."""
        conv, embed = self.student.encoder.pos_conv_embed.conv, x.shape[-1]
        kernel = conv.weight[:embed, : embed // conv.groups]
        sizes = {"padding": conv.kernel_size[0] // 2, "groups": conv.groups}
        y = F.conv1d(x.transpose(1, 2), kernel, conv.bias[:embed], **sizes)
        return F.gelu(y[..., : x.shape[1]].transpose(1, 2))


def _linear(x: Tensor, layer: nn.Linear, size: int) -> Tensor:
    """A linear map by leading slices, from as many channels as x has to `size`."""
    return F.linear(x, layer.weight[:size, : x.shape[-1]], layer.bias[:size])


def _norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    size = x.shape[-1]
    return F.layer_norm(x, (size,), norm.weight[:size], norm.bias[:size], norm.eps)


def _attend(x: Tensor, attention: nn.Module, heads: int) -> Tensor:
    query, key, value = (
        _linear(x, layer, heads * HEAD).unflatten(-1, (heads, HEAD)).transpose(1, 2)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    found = F.scaled_dot_product_attention(query, key, value)
    return _linear(found.transpose(1, 2).flatten(2), attention.out_proj, x.shape[-1])


def _mlp(x: Tensor, mlp: nn.Module, ratio: float) -> Tensor:
    up, down, pieces = mlp.intermediate_dense, mlp.output_dense, list(_pieces(x, ratio))
    inner = torch.cat([up.weight[piece, : x.shape[-1]] for piece in pieces])
    bias = torch.cat([up.bias[piece] for piece in pieces])
    outer = torch.cat([down.weight[: x.shape[-1], piece] for piece in pieces], 1)
    return F.linear(F.gelu(F.linear(x, inner, bias)), outer, down.bias[: x.shape[-1]])


def _pieces(x: Tensor, ratio: float) -> Iterator[slice]:
    """Yields the hidden units of a subnet: the first of every block that the whole width has."""
    for block in range(math.ceil(ratio)):
        share = min(1.0, ratio - block)
        yield slice(block * WIDTH, block * WIDTH + int(share * x.shape[-1]))
