"""How alike two attention maps of the same image are: the measures h of attention consistency.

    pearson             <a - mean a, b - mean b> / sqrt(|a - mean a|^2 |b - mean b|^2 + eps)
    cross_correlation   <a, b> / sqrt(|a|^2 |b|^2 + eps)
    ssim                mean over windows of    (2 mu_a mu_b + C1) (2 s_ab + C2)
                                             ------------------------------------------
                                             (mu_a^2 + mu_b^2 + C1) (s_a^2 + s_b^2 + C2)

a and b are the two maps of one image, each as one vector. Maps are (N, h, w), or (N, t, h, w) of clips, on one grid;
each measure gives one similarity per image, (N,), at most 1, in float32 or better. No measure depends on the size of a
map's values, so that maps of different units can be compared. A flat map, whose values differ by less than a millionth
of the largest magnitude, has no "where": its pearson and ssim are 0, and its gradient is 0, not NaN.

Source: Harmonizing Attention: Attention Map Consistency For Unsupervised Fine-Tuning, eq. 1 and section 5.
"""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from eke.errors import ConfigError, did_you_mean

Squash = Literal["none", "sigmoid_z"]
"""What is done to each map before it is compared."""

# Values are divided by their peak first, so that this is far below every product of two lengths but 0.
_EPS = 1e-12
# Values that differ by less than this share of the largest magnitude differ by rounding (as in eke.explain.scale).
_ROUNDING_RATE = 1e-6


def squashed(maps: Tensor, kind: Squash) -> Tensor:
    """Squash each map, differentiably.

    Args:
        maps: (N, h, w) or (N, t, h, w).
        kind: "none": as they are. "sigmoid_z": sigmoid((m - mean m) / std m) with the standard deviation of the whole
            map (authors' code), which takes the edge off single peaks; a flat map becomes 1/2.

    Returns:
        Likewise, in float32 or better.

    Raises:
        ConfigError: the kind is unknown.
    """
    if kind not in get_args(Squash):
        raise ConfigError(f"There is no squash {kind!r}. {did_you_mean(kind, get_args(Squash))}")
    if kind == "none":
        return _widened(maps)
    centered = _centered(maps)
    z = centered / (centered.square().mean(1, keepdim=True) + _EPS).sqrt()
    return z.sigmoid().view_as(maps)


def pearson(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's coefficient of correlation over the places of each pair of maps.

    Source: Harmonizing Attention, section 3.3 and line 8 of algorithm 1.

    Args:
        first: (N, h, w) or (N, t, h, w).
        second: likewise, on the same grid.

    Returns:
        (N,) in [-1, 1]; 0 where a map is flat.
    """
    return _cosine(_centered(first), _centered(second))


def cross_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Cross-correlation without a shift, as part of its largest possible value: the cosine of the maps as vectors.

    Unlike `pearson` it does not take the means off: two maps that are positive everywhere are alike to begin with.

    Source: Harmonizing Attention, section 5, which leaves its form open.

    Args:
        first: (N, h, w) or (N, t, h, w).
        second: likewise, on the same grid.

    Returns:
        (N,) in [-1, 1]; 0 where a map is 0 everywhere.
    """
    a, b = (_widened(maps).flatten(1) for maps in (first, second))
    return _cosine(*(_of_peak_one(values, empty=values.detach().abs().amax(1) == 0) for values in (a, b)))


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity of the maps, each scaled from its lowest and highest value to [0, 1].

    Source: Harmonizing Attention, section 5, which leaves the range of the maps open.

    Args:
        first: (N, h, w) or (N, t, h, w).
        second: likewise, on the same grid.

    Returns:
        (N,) in [-1, 1]; 0 where a map is flat.
    """
    flat = _is_flat(_widened(first)) | _is_flat(_widened(second))
    return torch.where(flat, 0.0, structural_similarity(_to_unit(first), _to_unit(second)))


def structural_similarity(first: Tensor, second: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity (SSIM) of maps as they are.

    Windows are Gaussian, sigma 1.5, of the side min(11, the largest odd number that fits), and lie wholly inside the
    map; C1 = (0.01 R)^2 and C2 = (0.03 R)^2 with the data range R. Clips are compared frame by frame, because they are
    often shorter than any window. In maps of one or two pixels a side a window is one pixel, and only the values of
    the pixels are compared.

    Source: Image Quality Assessment (Wang et al. 2004, IEEE Transactions on Image Processing 13), eq. 13 to 16.

    Args:
        first: a, (N, h, w) or (N, t, h, w).
        second: b, likewise, on the same grid.
        data_range: R, difference of the highest and the lowest value that maps can have.

    Returns:
        (N,) in [-1, 1]: the mean over all windows.
    """
    a, b = _widened(first), _widened(second)
    side = min(11, *(length - (length + 1) % 2 for length in a.shape[-2:]))
    mu_a, mu_b, aa, bb, ab = _window_means(torch.stack([a, b, a * a, b * b, a * b]), side)
    s_aa, s_bb, s_ab = aa - mu_a * mu_a, bb - mu_b * mu_b, ab - mu_a * mu_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mu_a * mu_b + c1) / (mu_a.square() + mu_b.square() + c1)
    structure = (2 * s_ab + c2) / (s_aa + s_bb + c2)
    return (luminance * structure).flatten(1).mean(1)


CORRELATIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pearson": pearson,
    "cross_correlation": cross_correlation,
    "ssim": ssim,
}
"""Name in options -> similarity (N,) of two batches of maps."""


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1) + _EPS).sqrt()


def _centered(maps: Tensor) -> Tensor:
    """Return each map around its mean as a row (N, P) whose peak is 1, or 0 where it is flat."""
    values = _widened(maps).flatten(1)
    return _of_peak_one(values - values.mean(1, keepdim=True), empty=_is_flat(values))


def _of_peak_one(values: Tensor, empty: Tensor) -> Tensor:
    """Divide each row by its peak as by a constant, which keeps squares in range and what follows is blind to."""
    peak = torch.where(empty, 1.0, values.detach().abs().amax(1))[:, None]
    return torch.where(empty[:, None], 0.0, values) / peak


def _to_unit(maps: Tensor) -> Tensor:
    """Scale each map from its lowest and highest value to [0, 1], differentiably; a flat one becomes 0."""
    values = _widened(maps).flatten(1)
    flat = _is_flat(values)[:, None]
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    return (torch.where(flat, 0.0, values - low) / torch.where(flat, 1.0, high - low)).view_as(maps)


@torch.no_grad()
def _is_flat(maps: Tensor) -> Tensor:
    values = maps.flatten(1)
    return values.amax(1) - values.amin(1) <= _ROUNDING_RATE * values.abs().amax(1)


def _window_means(maps: Tensor, side: int) -> Tensor:
    """Return the Gaussian mean around each place whose window lies inside the map."""
    offsets = torch.arange(side, dtype=maps.dtype, device=maps.device) - side // 2
    weights = (-offsets.square() / (2 * 1.5**2)).exp()
    weights = weights / weights.sum()
    for axis in (-2, -1):  # not a convolution: under autocast it would round, and variances are differences
        maps = (maps.unfold(axis, side, 1) * weights).sum(-1)
    return maps


def _widened(maps: Tensor) -> Tensor:
    return maps.to(torch.promote_types(maps.dtype, torch.float32))
