"""Does a map mark what the network decides by? Keep what it marks, paint over the rest, and look again.

    kept_b = softmax(f(m_b x_b + (1 - m_b) fill))_c        m_b: the hottest places of the map, a share of the area

A map that marks what counts keeps more of the predicted class's probability than a box of the same area in the center,
where photographers put objects. One that does not has found nothing, however well two views agree on it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from eke.errors import ConfigError
from eke.explain.differentiate import widened


def hottest(maps: Tensor, size: tuple[int, ...], area_rate: float) -> Tensor:
    """Mark the hottest places of each map, enlarged to the image.

    Args:
        maps: (N, h, w); of clips (N, t, h, w).
        size: (H, W) of the images; (T, H, W) of clips.
        area_rate: share of the area that is marked, in (0, 1], rounded to whole pixels; of equal places any.

    Returns:
        (N, H, W) or (N, T, H, W) float32, 1 where marked and 0 elsewhere.

    Raises:
        ConfigError: `area_rate` is out of range.
    """
    if not 0 < area_rate <= 1:
        raise ConfigError(f"area_rate is {area_rate}, and a share above 0 and up to 1 is needed.")
    mode = "bilinear" if len(size) == 2 else "trilinear"
    enlarged = F.interpolate(widened(maps)[:, None], list(size), mode=mode, align_corners=False).flatten(1)
    chosen = enlarged.topk(max(1, round(area_rate * enlarged.shape[1])), 1).indices
    marked = torch.zeros_like(enlarged, dtype=torch.float32).scatter_(1, chosen, 1.0)
    return marked.view(len(maps), *size)


def keep(images: Tensor, marked: Tensor, fill: Tensor) -> Tensor:
    """Keep what is marked and paint the rest.

    Args:
        images: (N, C, H, W) floats; of clips (N, C, T, H, W).
        marked: (N, H, W) or (N, T, H, W), or (H, W) for all, in [0, 1].
        fill: (C,) color of the rest.

    Returns:
        Like `images`.
    """
    weight = marked.to(images) if marked.ndim == 2 else marked.to(images)[:, None]
    return weight * images + (1 - weight) * fill.to(images).view(-1, *[1] * (images.ndim - 2))
