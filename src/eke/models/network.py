"""The classifier: images or clips in [0, 1] -> logits, embedding and named feature maps, all of one forward."""

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
    timm/NAME or torchvision/NAME; of clips each frame by itself, or torchvision/r3d_18, mc3_18 or r2plus1d_18."""
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
    """(N, D): what the body gives and the head reads, not of unit length; of clips the mean over frames."""
    features: dict[str, Tensor]
    """Layer -> (N, C, h, w), of clips (N, C, t, h, w), in the order asked for; logits can be differentiated with
    respect to each."""


_READS_CLIPS = (
    "This model reads clips, with 3-D convolutions, and these are images. Choose another model.name, such as resnet18."
)


class Network(nn.Module):
    """Normalization, a body (images -> embedding) and a head (embedding -> logits).

    A body with 3-D convolutions reads clips (N, C, T, H, W). Any other reads images and, of a clip, frame by frame;
    then the clip's embedding is the mean of those of its frames, and its maps are those of its frames in their order.

    Mean and standard deviation are buffers, so that saved weights know how their images are normalized.

    Args:
        body: maps normalized images (N, C, H, W), or clips (N, C, T, H, W), to (N, D), or to maps (N, D, [t,] h, w),
            which are averaged.
        head: maps (N, D) to (N, K), usually a `Linear`; `Identity` for a network without classes.
        width: D.
        mean: one number for each channel that the body reads, in units of [0, 1] images.
        std: likewise; positive.
        dropout: rate of dropout between embedding and head; `Outputs.embedding` is taken before it.
        layout: how the tensors inside the body hold the image, where it is not (N, C, h, w).
        kind: what the logits say: one class an image, or several.
        frames: T of the clips that are classified; None for images.

    Raises:
        ConfigError: `mean` and `std` do not belong together, a standard deviation is not positive, or the body reads
            clips and images are to be classified.
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
        frames: int | None = None,
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
        self.frames = frames
        self.sees_motion = reads_clips(body)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, images: Tensor, taps: Sequence[str] = ()) -> Outputs:
        """Classify `images` (N, C, H, W), or clips (N, C, T, H, W), float in [0, 1], and keep the maps of `taps`.

        Images of one channel are repeated where the body reads three.

        Raises:
            ConfigError: the channels do not fit, or a layer gives no single map (see
                `eke.models.tap.tapped`).
        """
        read, layout = self.as_read(images)
        with tapped(self.body, taps, read.shape, layout) as features:
            embedding = self.body(read)
        if embedding.ndim > 2:
            embedding = embedding.flatten(2).mean(2)
        if layout.frames is not None:
            embedding = embedding.unflatten(0, (-1, layout.frames)).mean(1)
        return Outputs(self.head(self.dropout(embedding)), embedding, features)

    def as_read(self, images: Tensor) -> tuple[Tensor, Layout]:
        """Return normalized images or clips as the body reads them, and how they lie inside it.

        Raises:
            ConfigError: the channels do not fit, or the body reads clips and these are images.
        """
        normalized = self.normalize(images)
        if self.sees_motion and images.ndim != 5:
            raise ConfigError(_READS_CLIPS)
        if self.sees_motion or images.ndim != 5:
            return normalized, self.layout
        return normalized.transpose(1, 2).flatten(0, 1), self.layout._replace(frames=images.shape[2])

    def input_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Return (C, H, W), or (C, T, H, W) of clips, of what the network reads at a size (H, W)."""
        return (len(self.mean), *([] if self.frames is None else [self.frames]), *size)

    def normalize(self, images: Tensor) -> Tensor:
        """Shift and scale `images` (N, C, [T,] H, W) in [0, 1] to what the body reads: 0 is the mean color."""
        channels = len(self.mean)
        if images.shape[1] not in (1, channels):
            raise ConfigError(
                f"The network reads images of {channels} channels, and these have {images.shape[1]}: "
                "set data.channels to what it was made for."
            )
        shape = (channels,) + (1,) * (images.ndim - 2)
        return (images - self.mean.view(shape)) / self.std.view(shape)


def reads_clips(body: nn.Module) -> bool:
    """Tell whether a body reads clips (N, C, T, H, W): whether it has 3-D convolutions."""
    return any(isinstance(module, nn.Conv3d) for module in body.modules())


def layers(network: Network, size: tuple[int, int]) -> list[str]:
    """Return the names that `taps` takes, in the order in which the layers finish: the last map is the
    deepest.

    Args:
        network: it is left as it is; a copy reads one image or clip.
        size: (H, W) of the images. Where they are small the deepest maps have a single pixel and are left
            out.
    """
    shape = network.input_shape(size)
    image = network.mean.view(1, -1, *[1] * (len(shape) - 1)).expand(1, *shape)
    return find_layers(network.body, *network.as_read(image))


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
    images = torch.rand(2, *network.input_shape(size), generator=draw).to(network.mean)
    with torch.no_grad():
        outputs = probe(images, taps=(layer,))
    pooled = outputs.features[layer].flatten(2).mean(2)
    return pooled.shape == outputs.embedding.shape and torch.allclose(pooled, outputs.embedding, rtol=1e-4, atol=1e-6)
