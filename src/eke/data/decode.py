"""From bytes to pixels, safely: out come uint8 pixels, or an error that names what is wrong with the file."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from eke.data.images import Content, ImageContent, frames_of
from eke.errors import DataError

MAX_PIXELS = 80_000_000
"""Largest width times height that is decoded: 80 megapixels, 240 MB of RGB. The header alone decides."""
_ORIENTATION = 0x0112
_WHOLE = {"L", "RGB"}
_DEEP = {"I", "I;16", "I;16B", "I;16L", "I;16N"}


class BadImageError(DataError):
    """An image that cannot be decoded.

    Attributes:
        kind: empty, not an image, truncated, too large, damaged or unsupported.
        remedy: what to do.
    """

    def __init__(self, kind: str, detail: str, remedy: str) -> None:
        super().__init__(f"{kind}: {detail}. {remedy}")
        self.kind = kind
        self.detail = detail
        self.remedy = remedy


class Header(NamedTuple):
    """What an image says of itself before it is decoded."""

    width: int
    """After the rotation that its EXIF data ask for, like `height`."""
    height: int
    mode: str
    """Pillow's name (L, RGB, P, CMYK ...), or the dtype of an array."""
    frames: int
    rotated: bool
    """Whether EXIF data ask for a rotation or flip."""


def decode(content: ImageContent, *, channels: int | None) -> np.ndarray:
    """Decode one image to uint8 (H, W, C).

    The first frame of an animation, turned upright as EXIF says, 16 bits scaled to 8, palettes resolved,
    CMYK converted, transparency laid over white.

    Args:
        content: an encoded file; or an array (H, W[, C]) as `to_uint8` takes it.
        channels: 1 (grey by ITU-R 601 luma), 3, or None: 1 for grey images and 3 for colored ones.

    Raises:
        BadImageError: the image cannot be decoded; `kind` says why.
    """
    if isinstance(content, np.ndarray):
        return _with_channels(to_uint8(content), channels)
    return inspect_and_decode(content, channels=channels)[1]


def inspect_and_decode(content: ImageContent, *, channels: int | None) -> tuple[Header, np.ndarray]:
    """Do `decode`, and return the header with it."""
    if isinstance(content, np.ndarray):
        height, width = content.shape[:2]
        return Header(width, height, str(content.dtype), 1, False), decode(content, channels=channels)
    with _opened(content) as image:
        if image.width * image.height > MAX_PIXELS:
            raise _too_large(f"{image.width}x{image.height} pixels")
        mode = image.mode
        try:
            frames = getattr(image, "n_frames", 1)
            image.load()
            turned = image.getexif().get(_ORIENTATION, 1)  # reading EXIF data may decode: after the check of size
        except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
            raise _damaged(error) from None
        header = Header(*image.size, mode, frames, turned in range(2, 9))
        if header.rotated:
            image = ImageOps.exif_transpose(image)
            header = header._replace(width=image.width, height=image.height)
        if channels == 3 and image.mode == "RGB":
            return header, np.array(image)
        return header, _with_channels(_eight_bits(image), channels)


def _opened(content: bytes) -> Image.Image:
    if not content:
        raise BadImageError("empty", "the file has no bytes", "Restore it from its source, or delete it")
    try:
        return Image.open(io.BytesIO(content))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(str(error).split(" could be")[0]) from None
    except UnidentifiedImageError:
        what = "text" if _is_text(content[:512]) else f"first bytes {content[:8]!r}"
        raise BadImageError("not an image", f"no known image format: {what}", "Delete or rename the file") from None
    except Exception as error:  # a header that is cut off
        raise _damaged(error) from None


def _is_text(content: bytes) -> bool:
    try:
        return content.decode("utf-8").isprintable() or (b"\n" in content and b"\0" not in content)
    except UnicodeDecodeError:
        return False


def _too_large(seen: str) -> BadImageError:
    limit = f"the limit is {MAX_PIXELS // 1_000_000} megapixels"
    return BadImageError("too large", f"{seen}, {limit}", "Scale it down with an image program")


def _damaged(error: Exception) -> BadImageError:
    words = str(error).lower()
    cut_off = isinstance(error, EOFError) or any(
        word in words for word in ("truncat", "not enough", "unexpected end", "no data", "broken data stream")
    )
    kind = "truncated" if cut_off else "damaged"
    return BadImageError(kind, str(error).strip() or type(error).__name__, "Restore the file from its source")


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Return a loaded image as uint8 (H, W) or (H, W, 3)."""
    mode = image.mode
    if mode in _WHOLE:
        return np.array(image)
    if mode in _DEEP:
        return _from_sixteen_bits(np.asarray(image))
    if mode == "F":
        return to_uint8(np.asarray(image))[..., 0]
    if mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
        grey = mode in {"LA", "La"}
        clear = image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
        return np.array(flat.convert("L" if grey else "RGB"))
    if mode == "1":
        return np.array(image.convert("L"))
    if mode == "P" and _grey_palette(image):
        return np.array(image.convert("L"))
    return np.array(image.convert("RGB"))


def _grey_palette(image: Image.Image) -> bool:
    colors = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
    return bool((colors == colors[:, :1]).all())


def _from_sixteen_bits(values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise _unsupported(f"whole numbers from {low} to {high}")
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _unsupported(seen: str) -> BadImageError:
    return BadImageError("unsupported", f"{seen}", "Save it as 8-bit or 16-bit, or as floats in [0, 1]")


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Turn an array image (H, W[, C]) into uint8 (H, W, C), C = 1 or 3.

    uint8 is kept; bool becomes 0 and 255; uint16 is scaled by 255 / 65535; floats in [0, 1] by 255; other
    integers must lie in [0, 255]. A fourth channel is transparency, laid over white.

    Raises:
        BadImageError: another shape, dtype or range.
    """
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in {1, 3, 4} or 0 in values.shape:
        raise BadImageError(
            "unsupported", f"array of shape {values.shape}", "Give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    pixels = _scaled(values)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.float32) / 255
        pixels = np.rint(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return pixels


def _scaled(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint16:
        return _from_sixteen_bits(values)
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise _unsupported(f"values of type {values.dtype}, or not finite")
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.rint(values * 255).astype(np.uint8)
    if values.dtype.kind in "iu" and low >= 0 and high <= 255:
        return values.astype(np.uint8)
    raise _unsupported(f"{values.dtype} values from {low:g} to {high:g}")


def _with_channels(pixels: np.ndarray, channels: int | None) -> np.ndarray:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if channels == 3 and pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if channels == 1 and pixels.shape[2] == 3:
        return np.array(Image.fromarray(pixels).convert("L"))[..., None]
    return pixels


def fit(image: np.ndarray, size: Sequence[int], how: str) -> tuple[np.ndarray, np.ndarray]:
    """Bring one image to the working size.

    Args:
        image: uint8 (H, W, C).
        size: (h, w) to bring it to.
        how: crop (fill the size, cut the rest off, centered), pad (fit in, black around it, centered) or
            stretch (change the aspect ratio).

    Returns:
        uint8 (C, h, w), resampled bilinearly with antialiasing (Pillow's), untouched where the size is right;
        and float32 (2, 3), which maps SOURCE pixel-edge coordinates (x, y, 1) to those of the result.
    """
    (height, width), (h, w) = image.shape[:2], size
    x_scale, y_scale = w / width, h / height
    left = top = 0.0
    inner_w, inner_h = w, h
    box = (0.0, 0.0, float(width), float(height))
    if how == "crop":
        x_scale = y_scale = max(x_scale, y_scale)
        # a side that just fits may be longer by rounding, and an offset below 0 is refused
        left, top = max(0.0, (width - w / x_scale) / 2), max(0.0, (height - h / y_scale) / 2)
        box = (left, top, width - left, height - top)
    elif how == "pad":
        scale = min(x_scale, y_scale)
        inner_w, inner_h = max(1, math.floor(width * scale + 0.5)), max(1, math.floor(height * scale + 0.5))
        x_scale, y_scale = inner_w / width, inner_h / height
    pixels = _resized(image, (inner_h, inner_w), box)
    x, y = (w - inner_w) // 2, (h - inner_h) // 2
    if (inner_h, inner_w) != (h, w):
        canvas = np.zeros((h, w, image.shape[2]), dtype=np.uint8)
        canvas[y : y + inner_h, x : x + inner_w] = pixels
        pixels = canvas
    affine = np.array([[x_scale, 0, x - left * x_scale], [0, y_scale, y - top * y_scale]], dtype=np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), affine


def decode_and_fit(content: Content, size: Sequence[int], *, channels: int, how: str) -> tuple[np.ndarray, np.ndarray]:
    """Do `decode` and `fit`; the frames of a clip alike.

    Args:
        content: of an image or a clip.
        size: (h, w) to bring it to.
        channels: 1 or 3.
        how: crop, pad or stretch.

    Returns:
        uint8 (C, h, w), or (C, T, h, w) of a clip; and the affine of `fit`, of a clip that of its first frame.

    Raises:
        BadImageError: the image, or a frame of the clip, which is named, cannot be decoded.
    """
    frames = frames_of(content)
    fitted = []
    for number, frame in enumerate(frames):
        with of_frame(number, len(frames)):
            fitted.append(fit(decode(frame, channels=channels), size, how))
    return (np.stack([pixels for pixels, _ in fitted], 1) if len(frames) > 1 else fitted[0][0]), fitted[0][1]


@contextmanager
def of_frame(number: int, n_frames: int) -> Iterator[None]:
    """Let a BadImageError name its frame, where it is one of a clip."""
    try:
        yield
    except BadImageError as error:
        if n_frames == 1:
            raise
        raise BadImageError(error.kind, f"frame {number} of {n_frames}: {error.detail}", error.remedy) from None


def _resized(image: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    height, width = image.shape[:2]
    if size == image.shape[:2] and box == (0.0, 0.0, float(width), float(height)):
        return image
    grey = image.shape[2] == 1
    shown: Any = Image.fromarray(image[..., 0] if grey else image)
    pixels = np.array(shown.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box))
    return pixels[..., None] if grey else pixels
