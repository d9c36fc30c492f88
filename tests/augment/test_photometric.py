"""Every photometric operation against Pillow, on every pixel."""

import math

import pytest
import torch

from eke.augment import photometric
from eke.augment.draws import Op
from eke.augment.pipeline import PHOTOMETRIC

RANGES = {
    Op.SOLARIZE: (0, 256),
    Op.POSTERIZE: (1, 8.99),
    Op.BRIGHTNESS: (0, 2),
    Op.CONTRAST: (0, 2),
    Op.COLOR: (0, 2),
    Op.SHARPNESS: (0, 2),
    Op.HUE: (-0.5, 0.5),
    Op.GAUSSIAN_BLUR: (0.1, 2),
}
EXACT = (Op.AUTOCONTRAST, Op.EQUALIZE, Op.SOLARIZE, Op.POSTERIZE, Op.GRAYSCALE)


@pytest.mark.parametrize("op", PHOTOMETRIC, ids=lambda op: op.name.lower())
def test_each_operation_equals_pillow(op, pictures, pillow):
    low, high = RANGES.get(op, (0, 0))
    levels = torch.linspace(low, high, len(pictures), dtype=torch.float64)
    levels = levels.floor() if op == Op.POSTERIZE else levels
    ours = PHOTOMETRIC[op](pictures, levels)
    theirs = torch.stack(
        [
            pillow.to_tensor(pillow.apply(op, pillow.to_pillow(image), level))
            for image, level in zip(pictures, levels.tolist(), strict=True)
        ]
    )
    assert ours.dtype == torch.uint8
    off = (ours.int() - theirs.int()).abs()
    assert off.max() <= (0 if op in EXACT else 1)
    # not merely close: a difference of one is a rare rounding, not a bias
    assert (off > 0).float().mean() < 1e-3


@pytest.mark.parametrize("op", [Op.AUTOCONTRAST, Op.EQUALIZE], ids=lambda op: op.name.lower())
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (16, 17), (20, 20)])
def test_flat_and_small_images_equal_pillow(op, size, pillow):
    generator = torch.Generator().manual_seed(3)
    noise = torch.randint(0, 256, (20, 3, *size), generator=generator, dtype=torch.uint8)
    noise[0] = 7
    noise[1] = noise[1] // 128
    ours = PHOTOMETRIC[op](noise, torch.zeros(20))
    for image, mine in zip(noise, ours, strict=True):
        assert torch.equal(mine, pillow.to_tensor(pillow.apply(op, pillow.to_pillow(image), 0)))


def test_hue_is_pillows_on_all_colors_of_a_lattice(pillow):
    steps = torch.arange(0, 256, 5, dtype=torch.uint8)
    colors = torch.cartesian_prod(steps, steps, steps).T.reshape(1, 3, 52, -1)
    for turn in (-0.5, -0.1, 0.0, 0.03, 0.4):
        ours = photometric.hue(colors, torch.tensor([turn], dtype=torch.float64))[0].int()
        theirs = pillow.to_tensor(pillow.apply(Op.HUE, pillow.to_pillow(colors[0]), turn)).int()
        off = (ours - theirs).abs()
        assert off.max() <= 1
        assert (off > 0).float().mean() < 1e-4


def test_images_too_small_for_the_sharpness_filter_stay():
    image = torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3)
    assert torch.equal(photometric.sharpness(image, torch.tensor([0.0])), image)


def blurred(image, sigma, radius):
    """Slow reference of the blur of one plane, pixel by pixel, before rounding."""
    height, width = len(image), len(image[0])
    reach = range(-radius, radius + 1)
    weights = {k: math.exp(-(k**2) / (2 * sigma**2)) for k in reach}
    total = sum(weights.values())

    def reflected(place, side):
        return -place if place < 0 else 2 * (side - 1) - place if place >= side else place

    def at(y, x):
        terms = (
            weights[i] * weights[j] * image[reflected(y + i, height)][reflected(x + j, width)]
            for i in reach
            for j in reach
        )
        return sum(terms) / total**2

    return torch.tensor([[at(y, x) for x in range(width)] for y in range(height)], dtype=torch.float64)


@pytest.mark.parametrize(("size", "radius"), [((2, 3), 1), ((39, 21), 1), ((40, 47), 2), ((75, 60), 3)])
def test_gaussian_blur_is_the_formula(size, radius):
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (3, 1, *size), generator=generator, dtype=torch.uint8)
    sigma = torch.tensor([0.3, 1.1, 2.0], dtype=torch.float64)
    ours = photometric.gaussian_blur(images, sigma)
    for image, level, mine in zip(images, sigma.tolist(), ours, strict=True):
        exact = blurred(image[0].tolist(), level, radius)
        off = (mine[0].double() - exact).abs()
        # float32 may round what is within 1e-4 of a tie the other way
        assert off.max() < 0.5 + 1e-4


@pytest.mark.parametrize(("size", "kernel"), [((96, 130), 9), ((224, 224), 23)])
def test_gaussian_blur_of_large_images_is_torchvisions(size, kernel):
    from torchvision.transforms.v2.functional import gaussian_blur

    images = torch.randint(0, 256, (4, 3, *size), dtype=torch.uint8)
    sigma = torch.tensor([0.1, 0.7, 1.4, 2.0], dtype=torch.float64)
    ours = photometric.gaussian_blur(images, sigma)
    theirs = [gaussian_blur(image, kernel, level) for image, level in zip(images, sigma.tolist(), strict=True)]
    off = (ours.int() - torch.stack(theirs).int()).abs()
    assert off.max() <= 1
    assert (off > 0).float().mean() < 1e-3


def test_limits_of_the_gaussian_blur():
    noise = torch.randint(0, 256, (256, 3, 24, 30), dtype=torch.uint8)
    narrow, wide = (torch.full((256,), level, dtype=torch.float64) for level in (1e-3, 1e6))
    assert torch.equal(photometric.gaussian_blur(noise, narrow), noise)
    # an endlessly wide one is the mean of the kernel's 3 x 3 pixels; ninths are never ties
    mean = torch.nn.functional.avg_pool2d(noise.double(), 3, stride=1)
    assert torch.equal(photometric.gaussian_blur(noise, wide)[..., 1:-1, 1:-1], mean.round().to(torch.uint8))
    flat = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(256, 3, 24, 30)
    assert torch.equal(photometric.gaussian_blur(flat, torch.linspace(0.1, 2, 256, dtype=torch.float64)), flat)
    # too narrow to reflect
    line = torch.arange(30, dtype=torch.uint8).view(1, 1, 1, 30)
    assert torch.equal(photometric.gaussian_blur(line, wide[:1]), line)
