"""Convolutional autoencoder (Masci et al. 2011, ICANN): paint the image from its embedding.

    loss = mean over images, channels and pixels of (decode(f(u)) - u)^2

Images are in [0, 1]; f is the network, whose embedding is kept, and the decoder is thrown away. The image that is
painted is the augmented one that f saw: nothing is denoised.
`explained` is 1 - loss / (mean squared distance to the batch's mean image): 1 for perfect images, 0 where every
embedding gives that mean.
Recipe: ours.

Deviations:
1. Encoder and decoder are trained at once (paper: layer after layer, each on the output of the one before).
2. Any network encodes; the decoder has kernels of its own, transposed convolutions with batch norm (paper: the
   encoder's kernels, flipped).
3. AdamW (paper: gradient descent).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eke.collectives import global_mean
from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.errors import ConfigError
from eke.methods.contract import Setting, StepResult
from eke.models.heads import Decoder
from eke.models.network import Network


class AutoencoderConfig(Options):
    """The autoencoder has no options of its own."""


class Autoencoder(nn.Module):
    """Squared error between the image and what the decoder paints from its embedding."""

    Config: ClassVar[type[Options]] = AutoencoderConfig
    recipe: ClassVar[Mapping[str, Any]] = {
        "batch": {"size": 256},
        "optim": {
            "name": "adamw",
            "lr": 0.001,
            "momentum": 0.9,
            "weight_decay": 0.01,
            "schedule": "half-cosine",
            "warmup_steps": 0,
            "ema_decay": 0.0,
        },
    }
    views: ClassVar[ViewPlan] = ViewPlan(labeled={}, unlabeled={"weak": "weak"})

    def __init__(self, config: AutoencoderConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        if len(setting.image_shape) > 3:
            raise ConfigError("The autoencoder paints images, not clips. Choose another method, such as simclr.")
        self.config = config
        self.network = network
        self.decoder = Decoder(setting.embedding_width, (setting.image_shape[0], *setting.size))

    def forward(self, batch: Batch) -> StepResult:
        images = batch.u["weak"].pixels
        loss = (self.decoder(self.network(images).embedding) - images).square().mean()
        return StepResult(loss, {"explained": _explained(loss.detach(), images)})


def _explained(loss: Tensor, images: Tensor) -> Tensor:
    """Return 1 - loss / variance around the global batch's mean image; the mean over processes is the whole batch's."""
    variance = global_mean((images - global_mean(images, 0)).square())
    return 1 - loss / variance.clamp_min(torch.finfo(images.dtype).eps)
