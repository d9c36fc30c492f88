"""Images as data URIs, small enough that a page with a hundred of them stays light."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from eke.errors import DataError

Image = NDArray[np.uint8]
"""(H,W) or (H,W,C) with C = 1 or 3."""

_LONGEST = 224  # pixels: pictures are shown at most half as large, so this is sharp on dense screens too
_PIXEL_ART = 64  # up to this size a picture is scaled up with its pixels showing


def data_uri(image: Image) -> str:
    """Encode an image as a data URI: PNG, or JPEG where a larger picture is.

    Args:
        image: (H,W) or (H,W,C) uint8, C = 1 or 3; more than 224 pixels on the longer side are scaled down.
    """
    from PIL import Image as Pillow

    pixels = _checked(image)
    picture: Any = Pillow.fromarray(pixels)
    picture.thumbnail((_LONGEST, _LONGEST))  # never scales up
    small = max(picture.size) <= _PIXEL_ART
    buffer = io.BytesIO()
    if small:
        picture.save(buffer, format="PNG", optimize=True)
    else:
        picture.save(buffer, format="JPEG", quality=85)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def middle_frame(pixels: Tensor) -> Tensor:
    """Return pixels (C, H, W) as they are, and of a clip (C, T, H, W) those of its middle frame."""
    return pixels[:, pixels.shape[1] // 2] if pixels.ndim == 4 else pixels


def middle_map(map_: Tensor) -> Tensor:
    """Return a map (h, w) as it is, and of a clip's (t, h, w) that of the middle time."""
    return map_[len(map_) // 2] if map_.ndim == 3 else map_


def picture_of(pixels: Tensor) -> Image:
    """Turn uint8 pixels (C, H, W) with C = 1 or 3, on any device, into an image; of a clip the middle frame."""
    array: Image = middle_frame(pixels).cpu().permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[2] == 1 else array


def heat_picture(values: NDArray[np.float32]) -> Image:
    """Color a map (h, w) in [0, 1] from dark (0) to bright (1), alike for readers who see colors differently."""
    import matplotlib

    colored = matplotlib.colormaps["viridis"](values, bytes=True)
    return np.ascontiguousarray(colored[..., :3])


def is_small(image: Image) -> bool:
    """Say whether an image is so small that its pixels should show when it is scaled up."""
    return max(image.shape[:2]) <= _PIXEL_ART


def _checked(image: Image) -> Image:
    fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))
    if not fits or image.dtype != np.uint8 or 0 in image.shape:
        raise DataError(f"A picture must be uint8, (H,W) or (H,W,1 or 3); got {image.dtype} of shape {image.shape}.")
    return np.ascontiguousarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
