"""Pictures to augment, and the reference, Pillow (torchvision for hue and blur): one image, one operation at a time."""

import io
import itertools
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from eke.augment.draws import Draws, Op
from eke.augment.presets import Preset

N = 16
ENHANCERS = {
    Op.BRIGHTNESS: ImageEnhance.Brightness,
    Op.CONTRAST: ImageEnhance.Contrast,
    Op.COLOR: ImageEnhance.Color,
    Op.SHARPNESS: ImageEnhance.Sharpness,
}


def to_pillow(image: Tensor) -> Image.Image:
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0).contiguous()
    return Image.fromarray(pixels.numpy())


def to_tensor(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def apply(op: Op, image: Image.Image, level: float, interpolation: str = "nearest", fill: int = 0) -> Image.Image:
    resample = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.NEAREST
    color = fill if image.mode == "L" else (fill,) * 3

    def affine(*matrix: float) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=color)

    match op:
        case Op.ROTATE:
            return image.rotate(level, resample=resample, fillcolor=color)
        case Op.SHEAR_X:
            return affine(1, level, 0, 0, 1, 0)
        case Op.SHEAR_Y:
            return affine(1, 0, 0, level, 1, 0)
        case Op.TRANSLATE_X:
            return affine(1, 0, level, 0, 1, 0)
        case Op.TRANSLATE_Y:
            return affine(1, 0, 0, 0, 1, level)
        case Op.AUTOCONTRAST:
            return ImageOps.autocontrast(image)
        case Op.EQUALIZE:
            return ImageOps.equalize(image)
        case Op.SOLARIZE:
            return ImageOps.solarize(image, level)
        case Op.POSTERIZE:
            return ImageOps.posterize(image, int(level))
        case Op.GRAYSCALE:
            return image.convert("L").convert(image.mode)
        case Op.HUE:
            from torchvision.transforms.functional import adjust_hue

            return adjust_hue(image, level)
        case Op.GAUSSIAN_BLUR:
            from torchvision.transforms.v2.functional import gaussian_blur

            return gaussian_blur(image, max(3, min(image.size) // 10 | 1), level)
        case Op.IDENTITY:
            return image
    return ENHANCERS[op](image).enhance(level)


def frame(image: Tensor, box: list[int], flip: bool, enlarge: bool) -> Image.Image:
    """Cut a frame with numpy's reflect padding, or with Pillow's crop and resize."""
    left, top, width, height = box
    if enlarge:
        whole = to_pillow(image)
        cut = whole.crop((left, top, left + width, top + height))
        cut = cut.resize(whole.size, Image.Resampling.BILINEAR)
    else:
        pad = 8
        padded = np.pad(image.numpy(), ((0, 0), (pad, pad), (pad, pad)), mode="reflect")
        cut = to_pillow(torch.from_numpy(padded[:, pad + top :, pad + left :][:, :height, :width].copy()))
    return ImageOps.mirror(cut) if flip else cut


def view(image: Tensor, draws: Draws, row: int, preset: Preset) -> Tensor:
    """Make one view step by step, each operation resampled on its own."""
    shown = frame(image, draws.box[row].tolist(), bool(draws.flip[row]), preset.enlarge)
    for op, level in zip(draws.ops[row].tolist(), draws.levels[row].tolist(), strict=True):
        shown = apply(Op(op), shown, level, preset.interpolation, preset.border_fill[0])
    done = to_tensor(shown).clone()
    left, top, right, bottom = draws.hole[row].tolist()
    color = torch.tensor(preset.hole_fill or (0, 0, 0), dtype=torch.uint8)
    if len(done) == 1:
        color = to_tensor(Image.new("RGB", (1, 1), tuple(color.tolist())).convert("L"))[:, 0, 0]
    done[:, top:bottom, left:right] = color[:, None, None]
    return done


@pytest.fixture(scope="session")
def pillow() -> SimpleNamespace:
    """Pillow's way: `apply` an operation, cut a `frame`, make a whole `view`; conversions."""
    return SimpleNamespace(apply=apply, frame=frame, view=view, to_pillow=to_pillow, to_tensor=to_tensor)


@pytest.fixture(scope="session")
def photos(request: pytest.FixtureRequest) -> Callable[[], Tensor]:
    """A function that gives (4 N, 3, 32, 32) real pictures, or skips."""

    def load() -> Tensor:
        from pyarrow import parquet

        path = request.getfixturevalue("shared_data") / "cifar10-test.parquet"
        rows = parquet.read_table(path, columns=["image"]).slice(0, 4 * N)["image"].to_pylist()
        return torch.stack([to_tensor(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in rows])

    return load


SETS = list(itertools.product(("random", "real"), (1, 3), ((32, 32), (27, 41))))


@pytest.fixture(scope="session", params=SETS, ids=lambda p: f"{p[0]}-{p[1]}x{p[2][0]}x{p[2][1]}")
def pictures(request: pytest.FixtureRequest, photos: Callable[[], Tensor]) -> Tensor:
    """(N, C, H, W) uint8: noise of differing contrast or photos, of one or three channels, square or not."""
    kind, channels, (height, width) = request.param
    if kind == "random":
        generator = torch.Generator().manual_seed(1)
        span = torch.randint(1, 257, (N, 1, 1, 1), generator=generator)
        noise = torch.rand(N, channels, height, width, generator=generator)
        return (noise * span + (256 - span) / 2).clamp(0, 255).to(torch.uint8)
    # four photos side by side, so that any size is real
    four = photos().view(N, 4, 3, 32, 32)
    upper, lower = torch.cat((four[:, 0], four[:, 1]), 3), torch.cat((four[:, 2], four[:, 3]), 3)
    rgb = torch.cat((upper, lower), 2)[:, :, 3 : 3 + height, 5 : 5 + width]
    if channels == 3:
        return rgb.contiguous()
    return torch.stack([to_tensor(to_pillow(image).convert("L")) for image in rgb])
