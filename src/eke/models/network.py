"""The classifier: images in [0, 1] -> logits, embedding and named feature maps, all of one forward."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from eke.config import Options
from eke.errors import ConfigError
from eke.losses.kinds import ONE, LabelKind
from eke.models.tap import Layout, find_layers, tapped


class ModelOptions(Options):
    """Which network is trained and where its weights start."""

    name: str = "auto"
    """auto (by the images' size), small, lenet, cnn8, resnet20, wrn-28-2, wrn-28-8, resnet18, resnet50,
    timm/NAME or torchvision/NAME."""
    pretrained: bool = False
    """Start from the published weights of a timm or torchvision model; they are downloaded."""
    weights: Path | None = None
    """Start from a local file of tensors (.safetensors, .pt, .pth); its class head is not used."""
    several: Literal["yes_or_no", "in_shares"] = "yes_or_no"
    """Where images have several labels: a yes or no for each class (binary cross entropy), or equal shares of one
    distribution (the categorical cross entropy of the harmonizing paper)."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Rate before the class head, in lenet and cnn8 after every layer; by default 0.25 and 0.5 in lenet, 0.3
    in cnn8, else 0."""


class Outputs(NamedTuple):
    """What one forward of a `Network` gives; everything is in one graph."""

    logits: Tensor
    """(N, K)."""
    embedding: Tensor
    """(N, D): what the body gives and the head reads, not of unit length."""
    features: dict[str, Tensor]
    """Layer -> (N, C, h, w), in the order asked for; logits can be differentiated with respect to each."""


class Network(nn.Module):
    """Normalization, a body (images -> embedding) and a head (embedding -> logits).

    Mean and standard deviation are buffers, so that saved weights know how their images are normalized.

    Args:
        body: maps normalized images (N, C, H, W) to (N, D), or to maps (N, D, h, w), which are averaged.
        head: maps (N, D) to (N, K), usually a `Linear`; `Identity` for a network without classes.
        width: D.
        mean: one number for each channel that the body reads, in units of [0, 1] images.
        std: likewise; positive.
        dropout: rate of dropout between embedding and head; `Outputs.embedding` is taken before it.
        layout: how the tensors inside the body hold the image, where it is not (N, C, h, w).
        kind: what the logits say: one class an image, or several.

    Raises:
        ConfigError: `mean` and `std` do not belong together, or a standard deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        head: nn.Module,
        *,
        width: int,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        dropout: float = 0.0,
        layout: Layout | None = None,
        kind: LabelKind = ONE,
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std, default=0) <= 0:
            raise ConfigError(f"mean {tuple(mean)} and std {tuple(std)} must hold one number per channel, std above 0.")
        self.body = body
        self.head = head
        self.dropout = nn.Dropout(dropout)
        self.width = width
        self.kind = kind
        self.layout = layout or Layout()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, images: Tensor, taps: Sequence[str] = ()) -> Outputs:
        """Classify `images` (N, C, H, W), float in [0, 1], and keep the maps of the layers named in `taps`.

        Images of one channel are repeated where the body reads three.

        Raises:
            ConfigError: the channels do not fit, or a layer gives no single map (see
                `eke.models.tap.tapped`).
        """
        normalized = self.normalize(images)
        with tapped(self.body, taps, normalized.shape, self.layout) as features:
            embedding = self.body(normalized)
        if embedding.ndim > 2:
            embedding = embedding.flatten(2).mean(2)
        return Outputs(self.head(self.dropout(embedding)), embedding, features)

    def normalize(self, images: Tensor) -> Tensor:
        """Shift and scale `images` (N, C, H, W) in [0, 1] to what the body reads: 0 is the mean color."""
        channels = len(self.mean)
        if images.shape[1] not in (1, channels):
            raise ConfigError(
                f"The network reads images of {channels} channels, and these have {images.shape[1]}: "
                "set data.channels to what it was made for."
            )
        shape = (channels,) + (1,) * (images.ndim - 2)
        return (images - self.mean.view(shape)) / self.std.view(shape)


def layers(network: Network, size: tuple[int, int]) -> list[str]:
    """Return the names that `taps` takes, in the order in which the layers finish: the last map is the
    deepest.

    Args:
        network: it is left as it is; a copy reads one image.
        size: (H, W) of the images. Where they are small the deepest maps have a single pixel and are left
            out.
    """
    image = network.mean.view(1, -1, 1, 1).expand(-1, -1, *size)
    return find_layers(network.body, network.normalize(image), network.layout)


def is_pooled_linearly(network: Network, layer: str, size: tuple[int, int]) -> bool:
    """Tell whether the logits are a linear map of the mean of a layer's map: Grad-CAM has a closed form there.

    Args:
        network: it is left as it is; a copy reads two images.
        layer: a name that `taps` takes.
        size: (H, W) of the images.
    """
    if not isinstance(network.head, nn.Linear) or network.dropout.p > 0:
        return False
    probe = copy.deepcopy(network).eval()
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(2, len(network.mean), *size, generator=draw).to(network.mean)
    with torch.no_grad():
        outputs = probe(images, taps=(layer,))
    pooled = outputs.features[layer].flatten(2).mean(2)
    return pooled.shape == outputs.embedding.shape and torch.allclose(pooled, outputs.embedding, rtol=1e-4, atol=1e-6)
