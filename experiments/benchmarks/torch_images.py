"""DMAE and MoCo v3 in torch, which ours are timed against; see step_vs_torch.py.

The transformers are those of `transformers`; the objectives, which it lacks, are plain torch. Axes:
B images, S patches, D width.
"""

import copy
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ViTConfig, ViTMAEConfig, ViTMAEForPreTraining, ViTMAEModel, ViTModel

from experiments.benchmarks.torch_steps import normalize

LARGE = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}
SMALL = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
HIDDEN, OUTPUTS = 4096, 256  # of the heads of MoCo v3
TEMPERATURE = 0.2


class DMAE(nn.Module):
    """A masked autoencoder of Base width aligned with `taught` blocks of a frozen Large one."""

    def __init__(self, depth: int, aligned: int, taught: int):
        super().__init__()
        self.aligned = aligned
        own = ViTMAEConfig(num_hidden_layers=depth, layer_norm_eps=1e-6)
        self.student = ViTMAEForPreTraining(own)
        large = ViTMAEConfig(num_hidden_layers=taught, layer_norm_eps=1e-6, **LARGE)
        self.teacher = ViTMAEModel(large).requires_grad_(False)
        self.teacher.layernorm = nn.Identity()  # features of a middle block have no final norm
        self.projector = nn.Linear(own.hidden_size, large.hidden_size)

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        """image (B, 3, 224, 224) uint8, noise (B, S): the smallest quarter is visible -> loss."""
        pixels = normalize(image)
        found = self.student(pixel_values=pixels, noise=noise, output_hidden_states=True)
        with torch.no_grad():
            targets = self.teacher(pixel_values=pixels, noise=noise).last_hidden_state
        features = self.projector(found.hidden_states[self.aligned])
        pair = (F.normalize(x.float(), dim=-1) for x in (features, targets))
        return found.loss + F.l1_loss(*pair)


class MoCoV3(nn.Module):
    """MoCo v3 of Small width: two views, a momentum encoder, heads with batch norm."""

    def __init__(self, depth: int):
        super().__init__()
        config = ViTConfig(num_hidden_layers=depth, layer_norm_eps=1e-6, **SMALL)
        encoder = ViTModel(config, add_pooling_layer=False)
        encoder.embeddings.position_embeddings.requires_grad_(False)  # fixed, like the patches
        encoder.embeddings.patch_embeddings.requires_grad_(False)
        self.student = nn.ModuleList([encoder, head(config.hidden_size, 3)])
        self.predictor = head(OUTPUTS, 2)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.follows = ((self.teacher, self.student),)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """first and second (B, 3, 224, 224) uint8, the views of the images -> loss."""
        views = [normalize(first), normalize(second)]
        queries = [self.predictor(project(self.student, view)) for view in views]
        with torch.no_grad():
            keys = [project(self.teacher, view) for view in views]
        return contrast(queries[0], keys[1]) + contrast(queries[1], keys[0])


def head(width: int, layers: int) -> nn.Sequential:
    """Returns an MLP with batch norm after each layer, the last one without scale and bias."""
    sizes = [width, *[HIDDEN] * (layers - 1), OUTPUTS]
    parts: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        last = i == layers - 1
        parts += [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b, affine=not last)]
        parts += [] if last else [nn.ReLU()]
    return nn.Sequential(*parts)


def project(encoder: nn.ModuleList, view: Tensor) -> Tensor:
    """Returns the projection (B, OUTPUTS) of the class token of images."""
    vit, projector = encoder
    return projector(vit(pixel_values=view).last_hidden_state[:, 0])


def contrast(queries: Tensor, keys: Tensor) -> Tensor:
    """Returns InfoNCE over the batch, scaled by twice the temperature."""
    logits = F.normalize(queries.float(), dim=1) @ F.normalize(keys.float(), dim=1).T
    labels = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits / TEMPERATURE, labels) * 2 * TEMPERATURE
