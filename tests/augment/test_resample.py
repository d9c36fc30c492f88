"""Moving pixels against Pillow: shifts exact, nearest exact, bilinear and resized crops within one grey level."""

import pytest
import torch

from eke.augment.draws import SLIDING, Op, matrices
from eke.augment.resample import paint, resize_crop, shift, slide, transform

ANGLES = [-30.0, -17.3, -1.0, 0.5, 12.0, 29.9, 45.0, 137.0]
SHEARS = [-0.3, -0.21, -0.03, 0.01, 0.17, 0.25, 0.3, 0.5]
SHIFTS = [-10.0, -3.5, -1.0, 0.25, 1.0, 4.7, 9.0, 50.0]
LEVELS = {
    Op.ROTATE: ANGLES,
    Op.SHEAR_X: SHEARS,
    Op.SHEAR_Y: SHEARS,
    Op.TRANSLATE_X: SHIFTS,
    Op.TRANSLATE_Y: SHIFTS,
}
FILL = 77


def move(op, pictures, levels, interpolation):
    n, channels, height, width = pictures.shape
    levels = torch.tensor(levels, dtype=torch.float64).repeat(n // len(levels) + 1)[:n]
    stages = matrices(torch.full((n, 1), int(op)), levels[:, None], (height, width))
    valid = torch.ones(n, height, width, dtype=torch.bool)
    fill = torch.full((channels,), FILL, dtype=torch.uint8)
    return levels, *transform(pictures, valid, stages, 0, fill, interpolation)


def reference(op, pictures, levels, interpolation, pillow, fill=FILL):
    done = [
        pillow.to_tensor(pillow.apply(op, pillow.to_pillow(image), level, interpolation, fill))
        for image, level in zip(pictures, levels.tolist(), strict=True)
    ]
    return torch.stack(done)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("op", LEVELS, ids=lambda op: op.name.lower())
def test_each_operation_equals_pillow_on_every_pixel(op, interpolation, pictures, pillow):
    levels, ours, shown = move(op, pictures, LEVELS[op], interpolation)
    off = (ours.int() - reference(op, pictures, levels, interpolation, pillow).int()).abs()
    assert off.max() <= (0 if interpolation == "nearest" else 1)
    # what Pillow leaves white of a white image is what it took from the frame
    white = torch.full_like(pictures, 255)
    assert torch.equal(shown, reference(op, white, levels, interpolation, pillow, fill=0)[:, 0] == 255)


@pytest.mark.parametrize("turn", [0.0, 90.0, 180.0, 270.0])
def test_quarter_turns_are_exact(turn, pictures, pillow):
    levels, ours, _ = move(Op.ROTATE, pictures, [turn], "nearest")
    assert torch.equal(ours, reference(Op.ROTATE, pictures, levels, "nearest", pillow))
    if pictures.shape[2] == pictures.shape[3]:
        assert torch.equal(ours, pictures.rot90(int(turn // 90), (2, 3)))


@pytest.mark.parametrize("op", SLIDING.tolist(), ids=lambda op: Op(op).name.lower())
def test_sliding_lines_is_the_same_transform(op, pictures):
    n, channels, height, width = pictures.shape
    levels = torch.tensor(LEVELS[op], dtype=torch.float64).repeat(2)[:, None]
    stages = matrices(torch.full((n, 1), op), levels, (height, width))
    valid = torch.rand(n, height, width, generator=torch.Generator().manual_seed(7)) < 0.5
    # every channel its own fill, which must not get into its neighbors
    fill = torch.arange(70, 70 + channels, dtype=torch.uint8)
    slow, fast = transform(pictures, valid, stages, 0, fill, "nearest"), slide(pictures, valid, stages[:, 0], fill)
    assert torch.equal(slow[0], fast[0])
    assert torch.equal(slow[1], fast[1])


def test_two_stages_leave_what_any_of_them_moved_out():
    image = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8)
    ops = torch.tensor([[int(Op.TRANSLATE_X), int(Op.TRANSLATE_X)]])
    stages = matrices(ops, torch.tensor([[3.0, -3.0]]), (8, 8))
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    fill = torch.zeros(1, dtype=torch.uint8)
    ours, shown = transform(image, valid, stages, 1, fill, "nearest")
    # there and back again: three columns went over the edge and are lost
    expected = image.clone()
    expected[..., :3] = 0
    assert torch.equal(ours, expected)
    assert torch.equal(shown, expected[:, 0] > 0)


def test_invalid_pixels_stay_invalid_where_they_move():
    image = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    valid[0, 1, 2] = False
    stages = matrices(torch.tensor([[int(Op.ROTATE)]]), torch.tensor([[90.0]]), (4, 4))
    _, shown = transform(image, valid, stages, 0, torch.zeros(1, dtype=torch.uint8), "nearest")
    assert torch.equal(shown, valid.rot90(1, (1, 2)))


def test_shifts_are_reflect_padding_and_a_crop(pictures, pillow):
    n, _, height, width = pictures.shape
    generator = torch.Generator().manual_seed(5)
    offset = torch.randint(-4, 5, (n, 2), generator=generator)
    box = torch.cat((offset, torch.tensor([[width, height]]).repeat(n, 1)), 1)
    flip = torch.rand(n, generator=generator) < 0.5
    ours, valid = shift(pictures, box, flip)
    for row in range(n):
        theirs = pillow.frame(pictures[row], box[row].tolist(), bool(flip[row]), False)
        assert torch.equal(ours[row], pillow.to_tensor(theirs))
        x, y = offset[row].tolist()
        inside = torch.zeros(height, width, dtype=torch.bool)
        inside[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)] = True
        assert torch.equal(valid[row], inside.flip(1) if flip[row] else inside)


def test_resized_crops_equal_pillow(pictures, pillow):
    n, _, height, width = pictures.shape
    generator = torch.Generator().manual_seed(6)
    u = torch.rand(n, 4, generator=generator)
    side_w, side_h = 1 + (u[:, 0] * width).long(), 1 + (u[:, 1] * height).long()
    side_w[0], side_h[0] = width, height
    left, top = (u[:, 2] * (width - side_w + 1)).long(), (u[:, 3] * (height - side_h + 1)).long()
    box, flip = torch.stack((left, top, side_w, side_h), 1), torch.rand(n, generator=generator) < 0.5
    ours, valid = resize_crop(pictures, box, flip)
    for row in range(n):
        theirs = pillow.to_tensor(pillow.frame(pictures[row], box[row].tolist(), bool(flip[row]), True))
        assert torch.equal(ours[row], theirs)
    assert valid.all()


def test_paint_sets_only_what_is_asked_for():
    image = torch.arange(24, dtype=torch.uint8).view(1, 2, 3, 4)
    where = torch.zeros(1, 3, 4, dtype=torch.bool)
    where[0, 1, 2:] = True
    painted = paint(image, where, torch.tensor([200, 100], dtype=torch.uint8))
    expected = image.clone()
    expected[0, 0, 1, 2:], expected[0, 1, 1, 2:] = 200, 100
    assert torch.equal(painted, expected)
