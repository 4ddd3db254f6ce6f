"""HuBERT as s3prl builds it of a file's model_cfg, literally: the names of its parameters, and what
they compute. For features of whole clips; no dropout, no masks.
"""

import ast
import math

import torch
from torch import nn


class _Block(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.heads = heads
        self.self_attn = nn.ModuleDict(
            {f"{n}_proj": nn.Linear(width, width) for n in ("k", "v", "q", "out")}
        )
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        size, own = x.shape[-1] // self.heads, self.self_attn
        query, key, value = (
            own[f"{n}_proj"](x).reshape(*x.shape[:2], self.heads, size).transpose(1, 2)
            for n in ("q", "k", "v")
        )
        shares = (query @ key.transpose(2, 3) / math.sqrt(size)).softmax(-1)
        joined = (shares @ value).transpose(1, 2).reshape(x.shape)
        x = self.self_attn_layer_norm(x + own["out_proj"](joined))
        return self.final_layer_norm(x + self.fc2(nn.functional.gelu(self.fc1(x))))


class Hubert(nn.Module):
    """Its features are the input of the first block and the output of every block."""

    def __init__(self, cfg):
        super().__init__()
        width, inputs, convs = cfg["encoder_embed_dim"], 1, nn.ModuleList()
        for channels, kernel, stride in ast.literal_eval(cfg["conv_feature_layers"]):
            norm = nn.Sequential(nn.Identity(), nn.LayerNorm(channels))
            conv = nn.Conv1d(inputs, channels, kernel, stride, bias=False)
            convs.append(nn.Sequential(conv, nn.Identity(), norm))
            inputs = channels
        self.feature_extractor = nn.ModuleDict({"conv_layers": convs})
        self.layer_norm, self.post_extract_proj = nn.LayerNorm(inputs), nn.Linear(inputs, width)
        self.mask_emb = nn.Parameter(torch.zeros(width))
        kernel, groups = cfg["conv_pos"], cfg["conv_pos_groups"]
        conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=groups)
        sizes = width, cfg["encoder_attention_heads"], cfg["encoder_ffn_embed_dim"]
        self.encoder = nn.ModuleDict(
            {
                "pos_conv": nn.Sequential(nn.utils.weight_norm(conv, dim=2)),
                "layers": nn.ModuleList(_Block(*sizes) for _ in range(cfg["encoder_layers"])),
                "layer_norm": nn.LayerNorm(width),
            }
        )
        self.final_proj = nn.Linear(width, cfg["final_dim"] or width)

    def forward(self, audio):
        """audio (B, N), normalized -> (L + 1, B, S, D)."""
        x = audio[:, None]
        for conv, _, norm in self.feature_extractor["conv_layers"]:
            x = nn.functional.gelu(norm(conv(x).transpose(1, 2)).transpose(1, 2))
        x = self.post_extract_proj(self.layer_norm(x.transpose(1, 2)))
        near = self.encoder["pos_conv"](x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        x = self.encoder["layer_norm"](x + nn.functional.gelu(near))
        found = [x]
        for block in self.encoder["layers"]:
            found.append(block(found[-1]))
        return torch.stack(found)


def load(path):
    """Returns the model of a file of the `hubert_custom` upstream; every parameter must fit."""
    content = torch.load(path, weights_only=False)
    assert set(content) == {"task_cfg", "model_cfg", "model_weight", "dictionaries_symbols"}
    assert (
        content["task_cfg"]["normalize"] and content["model_cfg"]["extractor_mode"] == "layer_norm"
    )
    model = Hubert(content["model_cfg"])
    model.load_state_dict(content["model_weight"], strict=True)
    return model.eval()
