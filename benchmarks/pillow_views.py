"""The usual way to make the same views: torchvision transforms on one Pillow image at a time.

It draws its own numbers, so it is also an independent check of what the presets draw.
"""

import math
import random
from collections.abc import Callable

import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor
from torchvision import transforms as T

Operation = Callable[[Image.Image], Image.Image]
GREY = (128, 128, 128)


def _affine(image: Image.Image, matrix: tuple[float, ...], resample: int, fill: tuple[int, int, int]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=fill)


def _operation(name: str, level: float, resample: int, fill: tuple[int, int, int]) -> Operation:
    def translate(image: Image.Image, horizontal: bool) -> Image.Image:
        matrix = (1, 0, level, 0, 1, 0) if horizontal else (1, 0, 0, 0, 1, level)
        return _affine(image, matrix, resample, fill)

    return {
        "identity": lambda image: image,
        "autocontrast": ImageOps.autocontrast,
        "equalize": ImageOps.equalize,
        "rotate": lambda image: image.rotate(level, resample=resample, fillcolor=fill),
        "solarize": lambda image: ImageOps.solarize(image, level),
        "color": lambda image: ImageEnhance.Color(image).enhance(level),
        "contrast": lambda image: ImageEnhance.Contrast(image).enhance(level),
        "brightness": lambda image: ImageEnhance.Brightness(image).enhance(level),
        "sharpness": lambda image: ImageEnhance.Sharpness(image).enhance(level),
        "shear_x": lambda image: _affine(image, (1, level, 0, 0, 1, 0), resample, fill),
        "shear_y": lambda image: _affine(image, (1, 0, 0, level, 1, 0), resample, fill),
        "translate_x": lambda image: translate(image, True),
        "translate_y": lambda image: translate(image, False),
        "posterize": lambda image: ImageOps.posterize(image, int(level)),
    }[name]


NAMES = (
    *("identity", "autocontrast", "equalize", "rotate", "solarize", "color", "contrast"),
    *("brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y", "posterize"),
)


class RandAugment:
    """The three variants of RandAugment, their cutout included."""

    def __init__(self, variant: str, side: int) -> None:
        self.variant, self.side = variant, side
        bilinear = variant == "comatch"
        self.resample = Image.Resampling.BILINEAR if bilinear else Image.Resampling.NEAREST
        self.fill = (0, 0, 0) if variant == "torchssl" else GREY

    def _level(self, name: str) -> float:
        if self.variant == "torchssl":
            bounds = {"rotate": 30, "shear_x": 0.3, "shear_y": 0.3}
            bounds |= {"translate_x": 0.3 * self.side, "translate_y": 0.3 * self.side}
            if name in bounds:
                return random.uniform(-bounds[name], bounds[name])
            return random.uniform(*{"solarize": (0, 256), "posterize": (4, 8)}.get(name, (0.05, 0.95)))
        level = 10 if self.variant == "comatch" else random.randint(1, 9)
        moves = {"rotate": 3 * level, "shear_x": 0.03 * level, "shear_y": 0.03 * level}
        moves |= dict.fromkeys(("translate_x", "translate_y"), level * self.side / 32)
        if name in moves:
            return random.choice((-1, 1)) * moves[name]
        if name == "solarize":
            return 256 if self.variant == "comatch" else 256 - int(25.6 * level)
        if name == "posterize":
            return 4 if self.variant == "comatch" else 4 - int(0.4 * level)
        return 0.1 + 0.18 * level

    def __call__(self, image: Image.Image) -> Image.Image:
        for _ in range(3 if self.variant == "torchssl" else 2):
            name = random.choice(NAMES)
            if self.variant == "torchssl" or random.random() < 0.5:
                image = _operation(name, self._level(name), self.resample, self.fill)(image)
        return self._cutout(image)

    def _cutout(self, image: Image.Image) -> Image.Image:
        x, y = random.randrange(self.side), random.randrange(self.side)
        if self.variant == "torchssl":
            length = random.uniform(0, 0.5) * self.side
            left, top = (int(max(0, center - length / 2)) for center in (x, y))
            box, color = (left, top, math.ceil(left + length), math.ceil(top + length)), (125, 123, 114)
        else:
            half = self.side // 4
            box, color = (x - half, y - half, x + half, y + half), GREY
        image = image.copy()
        image.paste(color, tuple(min(max(0, edge), self.side) for edge in box))
        return image


class Blur:
    """Barlow Twins' blur: Pillow's, with a drawn sigma."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2)))


LEAST_AREA = {"simclr": 0.2, "simclr/imagenet": 0.08, "barlow_twins/1": 0.08}
STRENGTHS = {
    "simclr": (0.4, 0.4, 0.4, 0.1),
    "simclr/imagenet": (0.8, 0.8, 0.8, 0.2),
    "barlow_twins/1": (0.4, 0.4, 0.2, 0.1),
}
BLUR_RATE = {"simclr": 0.0, "simclr/imagenet": 0.5, "barlow_twins/1": 1.0}


def pillow_view(preset: str, side: int) -> Callable[[Image.Image], Tensor]:
    """Return a transform of one square image of `side` pixels to a float tensor (C, side, side)."""
    if preset in STRENGTHS:
        steps = [
            T.RandomResizedCrop(side, scale=(LEAST_AREA[preset], 1)),
            T.RandomHorizontalFlip(),
            T.RandomApply([T.ColorJitter(*STRENGTHS[preset])], p=0.8),
            T.RandomGrayscale(0.2),
            T.RandomApply([Blur()], p=BLUR_RATE[preset]),
        ]
    else:
        steps = [T.RandomHorizontalFlip(), T.RandomCrop(side, padding=side // 8, padding_mode="reflect")]
    if preset.startswith("randaugment/"):
        steps.append(RandAugment(preset.removeprefix("randaugment/"), side))
    return T.Compose([*steps, T.ToTensor()])


def make_views(images: list[Image.Image], transform: Callable[[Image.Image], Tensor]) -> Tensor:
    """Augment image by image and stack, as a data loader does."""
    return torch.stack([transform(image) for image in images])
