"""One draw per clip: every frame is cut and colored alike, and one geometry stands for all of them."""

import pytest
import torch
from torchvision.transforms import v2

from eke.augment.draws import Draws, Op
from eke.augment.presets import PRESETS


def rng(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def clips():
    return torch.randint(0, 256, (5, 3, 4, 20, 30), dtype=torch.uint8, generator=rng(0))


@pytest.mark.parametrize("name", ["weak", "randaugment/google", "randaugment/comatch", "simclr/clips", "swav"])
def test_each_frame_is_the_view_of_an_image_with_the_clips_draw(name, clips):
    preset = PRESETS[name]
    draws = preset.draw(5, 3, (20, 30), rng(1))
    view = preset.apply(clips, draws)
    assert view.pixels.shape == clips.shape
    assert view.geometry.matrix.shape == (5, 2, 3)
    assert view.valid.shape == (5, 20, 30)
    for time in range(4):
        frame = preset.apply(clips[:, :, time], draws)
        assert torch.equal(view.pixels[:, :, time], frame.pixels)
        assert torch.equal(view.geometry.matrix, frame.geometry.matrix)
        assert torch.equal(view.valid, frame.valid)


def test_the_papers_views_of_clips_equal_torchvision(clips):
    """Harmonizing Attention, section 4.2, with the drawn numbers, frame by frame."""
    preset = PRESETS["simclr/clips"]
    draws = preset.draw(5, 3, (20, 30), rng(2))
    assert (draws.box[:, 2:] == torch.tensor([27, 18])).all()
    ours = (preset.apply(clips, draws).pixels * 255).round().int()
    how = {
        Op.BRIGHTNESS: v2.functional.adjust_brightness,
        Op.CONTRAST: v2.functional.adjust_contrast,
        Op.COLOR: v2.functional.adjust_saturation,
        Op.HUE: v2.functional.adjust_hue,
    }
    for row in range(5):
        left, top, width, height = draws.box[row].tolist()
        frames = clips[row].transpose(0, 1)
        theirs = v2.functional.resized_crop(frames, top, left, height, width, [20, 30], antialias=True)
        theirs = theirs.flip(-1) if draws.flip[row] else theirs
        for op, level in zip(draws.ops[row].tolist(), draws.levels[row].tolist(), strict=True):
            theirs = how[Op(op)](theirs, level)
        off = (ours[row].transpose(0, 1) - theirs.int()).abs()
        assert off.float().mean() < 2.5  # hue and contrast are rounded differently: docs/views.md
        assert (off > 16).float().mean() < 0.02


def test_the_papers_strengths_rates_and_places():
    preset = PRESETS["simclr/clips"]
    draws = preset.draw(4000, 3, (80, 80), rng(3))
    assert (draws.box[:, 2:] == 72).all()
    assert draws.box[:, :2].amin() == 0
    assert draws.box[:, :2].amax() == 8
    assert draws.flip.float().mean() == pytest.approx(0.5, abs=0.03)
    for op, low, high in [
        (Op.BRIGHTNESS, 0.2, 1.8),
        (Op.CONTRAST, 0.2, 1.8),
        (Op.COLOR, 0.2, 1.8),
        (Op.HUE, -0.4, 0.4),
    ]:
        levels = draws.levels[draws.ops == op]
        assert len(levels) == 4000
        assert levels.min() == pytest.approx(low, abs=0.01)
        assert levels.max() == pytest.approx(high, abs=0.01)


def test_clips_of_one_channel(clips):
    preset = PRESETS["simclr/clips"]
    draws = preset.draw(5, 1, (20, 30), rng(4))
    grey = preset.apply(clips[:, :1], draws)
    assert grey.pixels.shape == (5, 1, 4, 20, 30)
    assert isinstance(draws, Draws)
