"""From a network and pixels to probabilities or embeddings, in fixed blocks, and to predictions that can be saved."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eke.data.images import is_known
from eke.errors import CheckpointError
from eke.files import write_atomic
from eke.models.network import Network, Outputs

BLOCK = 256
"""Images, or frames of clips, per forward pass. Fixed, and the last block is padded, so that a figure does not depend
on how the images were grouped."""


class Predictions(NamedTuple):
    """What a model said of n images; saved per run, so that runs can be compared image by image."""

    ids: NDArray[Any]
    """(n,) image ids, text."""
    labels: NDArray[np.int64]
    """(n,) true classes, -1 where unknown; of images with several labels (n, K) of 0 and 1, rows of -1 likewise."""
    probs: NDArray[np.float32]
    """(n, K) class probabilities; of images with several labels one of its own for each class."""
    thresholds: NDArray[np.float64] = np.zeros(0)
    """(K,) of images with several labels: the probability from which each class is predicted. Else (0,)."""

    @property
    def predicted(self) -> NDArray[Any]:
        """(n,) int64 the likeliest class; of images with several labels (n, K) bool, what reaches its threshold."""
        return self.probs >= self.thresholds if self.several else self.probs.argmax(1)

    @property
    def several(self) -> bool:
        """Whether an image may have several labels."""
        return self.labels.ndim == 2

    @property
    def known(self) -> NDArray[np.bool_]:
        """(n,) whose labels are known."""
        return is_known(self.labels)

    def select(self, rows: NDArray[Any]) -> "Predictions":
        """Return those of some images: positions, or (n,) bool."""
        return self._replace(ids=self.ids[rows], labels=self.labels[rows], probs=self.probs[rows])

    def save(self, path: Path) -> None:
        """Write an .npz atomically; it holds arrays only, no code."""

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez_compressed(file, **self._asdict())

        write_atomic(path, write)

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(**{name: file[name] for name in cls._fields})
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"The predictions {path} cannot be read: {error}.") from None


def predict_probs(
    network: Network,
    read: Callable[[Sequence[int]], Tensor],
    indices: Sequence[int],
    device: torch.device,
    advance: Callable[[int], object] = lambda n: None,
) -> Tensor:
    """Return class probabilities of images, in evaluation mode; the network's own mode is left as found.

    Args:
        network: put into evaluation mode and back.
        read: positions -> uint8 pixels (n, C, [T,] H, W), as `PixelCache.read`.
        indices: n positions to predict.
        device: where the network is.
        advance: told the number of images done, for a progress bar.

    Returns:
        (n, K) float32 on the CPU; rows sum to 1 where each image has one label.
    """
    return _forward(network, read, indices, device, advance, lambda outputs: network.kind.probabilities(outputs.logits))


def embed(
    network: nn.Module,
    read: Callable[[Sequence[int]], Tensor],
    indices: Sequence[int],
    device: torch.device,
    advance: Callable[[int], object] = lambda n: None,
) -> Tensor:
    """Return embeddings of images, what the head reads, by the same blocks and modes as `predict_probs`.

    Args:
        network: returns Outputs; put into evaluation mode and back.
        read: positions -> uint8 pixels (n, C, [T,] H, W), as `PixelCache.read`.
        indices: n positions to embed.
        device: where the network is.
        advance: told the number of images done, for a progress bar.

    Returns:
        (n, D) float32 on the CPU, not of unit length.
    """
    return _forward(network, read, indices, device, advance, lambda outputs: outputs.embedding.float())


def _forward(
    network: nn.Module,
    read: Callable[[Sequence[int]], Tensor],
    indices: Sequence[int],
    device: torch.device,
    advance: Callable[[int], object],
    taken: Callable[[Outputs], Tensor],
) -> Tensor:
    """Send images through the network in fixed blocks, and keep what `taken` takes of each block's outputs."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    blocks = []
    try:
        with torch.inference_mode():
            frames = (network.frames or 1) if isinstance(network, Network) else 1
            rows = max(1, BLOCK // frames)
            for start in range(0, len(indices), rows):
                part = list(indices[start : start + rows])
                padded = part + [part[-1]] * (rows - len(part)) if len(indices) > rows else part
                pixels = read(padded).to(device).float().div_(255)
                blocks.append(taken(network(pixels))[: len(part)].cpu())
                advance(len(part))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(blocks)  # outside: an inference tensor could not be trained on
