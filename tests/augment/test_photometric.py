"""Every photometric operation against Pillow, on every pixel."""

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
