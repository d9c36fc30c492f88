"""Pools as they are found: classes or looks that are rare, images that are damaged. Only pools change.

none            the first half of the classes whole, n images; int(n / ratio) of the others together, drawn uniformly
                from their union, so not as many of each (Gudovskiy et al. 2020, section 4, as in the authors' code)
long_tail       class k of K keeps int(n_max ratio^(-k / (K - 1))), n_max: size of the largest (Cui et al. 2019)
within_class    of each class the darker half whole, n images, and int(n / ratio) of the brighter
perturbed       as none, and three tenths of the pool with noise or blurred, half of them each
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from eke.data.dividing import by_class
from eke.randomness import rng

Distortion = Literal["none", "long_tail", "within_class", "perturbed"]
PERTURBED_RATE = 0.3
NOISE = 0.2 * 255
"""Standard deviation of the noise, of 0 to 255."""
BLUR = 5
"""Pixels a side of the box that is averaged."""


def kept_rows(
    labels: NDArray[np.int64],
    ranks: NDArray[np.int64],
    brightness: NDArray[np.float64],
    ratio: float,
    distortion: Distortion,
) -> NDArray[np.int64]:
    """Return the rows of the images that stay in a pool, sorted.

    Args:
        labels: (n,) classes, 0 to K - 1.
        ranks: (n,) a random order: the first ones stay.
        brightness: (n,) mean of the pixels, any unit.
        ratio: of frequent to rare, 1 or more.
        distortion: what is rare.
    """
    n_classes = int(labels.max()) + 1
    parts = by_class(np.arange(len(labels)), labels, ranks, n_classes)
    if distortion == "long_tail":
        largest = max(len(part) for part in parts)
        sizes = [max(1, int(largest * ratio ** (-k / (n_classes - 1)))) for k in range(n_classes)]
        return np.sort(np.concatenate([part[:n] for part, n in zip(parts, sizes, strict=True)]))
    if distortion == "within_class":
        common, rare = [], []
        for part in parts:
            darkest = part[np.argsort(brightness[part], kind="stable")]
            half = (len(part) + 1) // 2
            bright = darkest[half:]
            common.append(darkest[:half])
            rare.append(bright[np.argsort(ranks[bright])][: int(half / ratio)])
        return np.sort(np.concatenate([*common, *rare]))
    frequent = labels < (n_classes + 1) // 2
    others = np.flatnonzero(~frequent)
    drawn = others[np.argsort(ranks[others])][: int(frequent.sum() / ratio)]
    return np.sort(np.concatenate([np.flatnonzero(frequent), drawn]))


def perturb(pixels: NDArray[np.uint8], ranks: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Add noise to some images and blur others: PERTURBED_RATE of them together.

    Args:
        pixels: (n, H, W, C).
        ranks: (n,) a random order: the first ones are changed.

    Returns:
        (n, H, W, C), a copy.
    """
    changed = pixels.copy()
    chosen = np.argsort(ranks)[: round(PERTURBED_RATE * len(pixels))]
    noisy, blurred = chosen[::2], chosen[1::2]
    noise = torch.randn(len(noisy), *pixels.shape[1:], generator=rng(0, 0, "perturbed")).numpy() * NOISE
    changed[noisy] = np.clip(np.rint(pixels[noisy] + noise), 0, 255)
    around = torch.from_numpy(pixels[blurred]).permute(0, 3, 1, 2).float()
    padded = torch.nn.functional.pad(around, (BLUR // 2,) * 4, mode="replicate")
    averaged = torch.nn.functional.avg_pool2d(padded, BLUR, 1).round().permute(0, 2, 3, 1)
    changed[blurred] = averaged.numpy().astype(np.uint8)
    return changed
