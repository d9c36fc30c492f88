"""Presets: what they draw, and whole views against Pillow's, step by step."""

import math

import pytest
import torch
from PIL import ImageOps

from eke.augment.distributions import RANDAUGMENT_OPS
from eke.augment.draws import GEOMETRIC, Op, matrices
from eke.augment.geometry import warp
from eke.augment.pipeline import BLOCK, PHOTOMETRIC, passes_of
from eke.augment.presets import PRESETS, Draws, take, to

NAMES = [name for name in PRESETS if not name.endswith("-noflip")]
MANY = 20_000


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def levels_of(draws, op):
    return draws.levels[draws.ops == op]


def assert_uniform(values, kinds):
    """Pearson's chi square below its 0.9999 quantile (Wilson and Hilferty)."""
    counts = torch.tensor([(values == kind).sum() for kind in kinds], dtype=torch.float64)
    assert counts.sum() == values.numel()
    expected = values.numel() / len(kinds)
    free = len(kinds) - 1
    bound = free * (1 - 2 / (9 * free) + 3.72 * math.sqrt(2 / (9 * free))) ** 3
    assert ((counts - expected) ** 2 / expected).sum() < bound


def assert_rate(flags, rate):
    deviation = math.sqrt(rate * (1 - rate) / flags.numel())
    assert abs(flags.double().mean().item() - rate) <= 3.9 * deviation


# ------------------------------------------------------------------------------------------ distributions


def test_weak_draws_every_shift_and_both_sides_equally():
    draws = PRESETS["weak"].draw(MANY, 3, (32, 48), rng())
    assert_uniform(draws.box[:, 0], range(-6, 7))
    assert_uniform(draws.box[:, 1], range(-4, 5))
    assert_rate(draws.flip, 0.5)
    assert (draws.box[:, 2:] == torch.tensor([48, 32])).all()
    assert draws.ops.shape == (MANY, 0)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
def test_all_flip_half_of_the_time_and_their_twins_never(name):
    assert_rate(PRESETS[name].draw(MANY, 3, (32, 32), rng()).flip, 0.5)
    assert not PRESETS[f"{name}-noflip"].draw(1000, 3, (32, 32), rng()).flip.any()


@pytest.mark.parametrize("name", ["none", "flip", "jitter-grey"])
def test_some_show_the_whole_image(name):
    draws = PRESETS[name].draw(100, 3, (20, 30), rng())
    assert (draws.box == torch.tensor([0, 0, 30, 20])).all()


@pytest.mark.parametrize("name", ["none", "flip", "resized-flip"])
def test_some_have_no_operation(name):
    assert PRESETS[name].draw(100, 3, (20, 30), rng()).ops.shape == (100, 0)


@pytest.mark.parametrize("name", ["randaugment/google", "randaugment/comatch", "randaugment/torchssl"])
def test_randaugment_draws_14_operations_equally(name):
    draws = PRESETS[name].draw(MANY, 3, (32, 32), rng())
    if name == "randaugment/torchssl":
        assert draws.ops.shape == (MANY, 3)
        assert_uniform(draws.ops, RANDAUGMENT_OPS)
    else:
        # half of the slots are not applied, and one in 14 draws the identity itself
        assert draws.ops.shape == (MANY, 2)
        assert_rate(draws.ops == Op.IDENTITY, 0.5 + 0.5 / 14)
        kept = draws.ops[draws.ops != Op.IDENTITY]
        assert_uniform(kept, [op for op in RANDAUGMENT_OPS if op != Op.IDENTITY])
        pairs = (draws.ops[:, 0] != Op.IDENTITY) & (draws.ops[:, 1] != Op.IDENTITY)
        assert_rate(pairs, (0.5 - 0.5 / 14) ** 2)


def test_google_levels_are_the_sources():
    draws = PRESETS["randaugment/google"].draw(MANY, 3, (32, 32), rng())
    of_ten = range(1, 10)
    expected = {
        Op.ROTATE: [sign * int(level * 30 / 10) for level in of_ten for sign in (-1, 1)],
        Op.SHEAR_X: [sign * level * 0.3 / 10 for level in of_ten for sign in (-1, 1)],
        Op.TRANSLATE_X: [sign * int(level * 10 / 10) for level in of_ten for sign in (-1, 1)],
        Op.TRANSLATE_Y: [sign * int(level * 10 / 10) for level in of_ten for sign in (-1, 1)],
        Op.SOLARIZE: [256 - int(level * 256 / 10) for level in of_ten],
        Op.COLOR: [level * 1.8 / 10 + 0.1 for level in of_ten],
        Op.SHARPNESS: [level * 1.8 / 10 + 0.1 for level in of_ten],
    }
    for op, kinds in expected.items():
        assert_uniform((levels_of(draws, op) * 1000).round(), [round(kind * 1000) for kind in kinds])
    bits = levels_of(draws, Op.POSTERIZE)
    assert sorted(set(bits.tolist())) == sorted({4 - int(level * 4 / 10) for level in of_ten})


def test_pixel_levels_follow_the_size():
    draws = PRESETS["randaugment/google"].draw(MANY, 3, (96, 64), rng())
    assert levels_of(draws, Op.TRANSLATE_X).abs().max() == 18
    assert levels_of(draws, Op.TRANSLATE_Y).abs().max() == 27


def test_comatch_levels_are_the_highest():
    draws = PRESETS["randaugment/comatch"].draw(MANY, 3, (32, 32), rng())
    for op, level in {
        Op.ROTATE: 30,
        Op.SHEAR_X: 0.3,
        Op.SHEAR_Y: 0.3,
        Op.TRANSLATE_X: 10,
        Op.TRANSLATE_Y: 10,
    }.items():
        assert_uniform(levels_of(draws, op), [-level, level])
    for op, level in {Op.SOLARIZE: 256, Op.POSTERIZE: 4, Op.COLOR: 1.9, Op.CONTRAST: 1.9}.items():
        assert (levels_of(draws, op) == level).all()


def test_torchssl_levels_are_uniform_in_their_ranges():
    draws = PRESETS["randaugment/torchssl"].draw(MANY, 3, (32, 32), rng())
    ranges = {
        Op.ROTATE: (-30, 30),
        Op.SHEAR_Y: (-0.3, 0.3),
        Op.TRANSLATE_X: (-9.6, 9.6),
        Op.SOLARIZE: (0, 256),
    }
    for op, (low, high) in {**ranges, Op.BRIGHTNESS: (0.05, 0.95), Op.SHARPNESS: (0.05, 0.95)}.items():
        assert_uniform(((levels_of(draws, op) - low) / (high - low) * 10).floor(), range(10))
    assert_uniform(levels_of(draws, Op.POSTERIZE), [4, 5, 6, 7])


@pytest.mark.parametrize(
    ("name", "strengths"),
    [
        ("simclr", (0.4, 0.4, 0.4, 0.1)),
        ("jitter-grey", (0.4, 0.4, 0.4, 0.1)),
        ("simclr/cifar", (0.4, 0.4, 0.4, 0.1)),
        ("simclr/imagenet", (0.8, 0.8, 0.8, 0.2)),
        ("swav", (0.8, 0.8, 0.8, 0.2)),
        ("barlow_twins/1", (0.4, 0.4, 0.2, 0.1)),
        ("barlow_twins/2", (0.4, 0.4, 0.2, 0.1)),
    ],
)
def test_jitter_draws_all_orders_and_ranges(name, strengths):
    draws = PRESETS[name].draw(MANY, 3, (32, 32), rng())
    jittered = draws.ops[:, 0] != Op.IDENTITY
    assert_rate(jittered, 0.8)
    assert_rate(draws.ops[:, 4] == Op.GRAYSCALE, 0.2)
    four = draws.ops[jittered][:, :4]
    assert (four.sort(1).values == torch.tensor(sorted((Op.BRIGHTNESS, Op.CONTRAST, Op.COLOR, Op.HUE)))).all()
    code = (four * torch.tensor([1000, 100, 10, 1])).sum(1)
    assert_uniform(code, code.unique().tolist())
    assert len(code.unique()) == 24
    middles = (1, 1, 1, 0)
    for op, middle, spread in zip((Op.BRIGHTNESS, Op.CONTRAST, Op.COLOR, Op.HUE), middles, strengths, strict=True):
        assert_uniform(((levels_of(draws, op) - middle + spread) / (2 * spread) * 10).floor(), range(10))


@pytest.mark.parametrize(
    ("name", "blur_rate", "solarize_rate"),
    [
        ("simclr", 0, 0),
        ("simclr/cifar", 0, 0),
        ("simclr/imagenet", 0.5, 0),
        ("swav", 0.5, 0),
        ("barlow_twins/1", 1, 0),
        ("barlow_twins/2", 0.1, 0.2),
    ],
)
def test_blur_then_solarize_come_last(name, blur_rate, solarize_rate):
    draws = PRESETS[name].draw(MANY, 3, (32, 32), rng())
    blur, solarize = draws.ops == Op.GAUSSIAN_BLUR, draws.ops == Op.SOLARIZE
    assert draws.ops.shape[1] == 5 + (blur_rate > 0) + (solarize_rate > 0)
    assert_rate(blur.any(1), blur_rate)
    assert_rate(solarize.any(1), solarize_rate)
    assert_rate(blur.any(1) & solarize.any(1), blur_rate * solarize_rate)
    assert not blur[:, :5].any()
    assert not solarize[:, :6].any()
    assert (draws.levels[solarize] == 128).all()
    if blur_rate:
        sigma = draws.levels[blur]
        assert_uniform(((sigma - 0.1) / 1.9 * 10).floor(), range(10))
        grey = (draws.ops[:, 4] == Op.GRAYSCALE)[blur.any(1)]
        # whether, how strongly and what else are drawn apart
        assert torch.corrcoef(torch.stack((sigma, grey.double())))[0, 1].abs() < 3.9 / math.sqrt(len(sigma))


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("simclr", 0.2),
        ("resized-flip", 0.2),
        ("simclr/imagenet", 0.08),
        ("simclr/cifar", 0.08),
        ("barlow_twins/1", 0.08),
        ("barlow_twins/2", 0.08),
        ("swav", 0.14),
    ],
)
def test_resized_crops_are_torchvisions_distribution(name, least):
    from torchvision.transforms import RandomResizedCrop

    size = (40, 24)
    ours = PRESETS[name].draw(3000, 3, size, rng()).box.double()
    image = torch.empty(3, *size)
    theirs = [RandomResizedCrop.get_params(image, [least, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)]
    theirs = torch.tensor(theirs, dtype=torch.float64)[:, [1, 0, 3, 2]]
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= torch.tensor([24, 40])).all()
    room = torch.tensor([24, 40]) - ours[:, 2:]
    free = (room > 3).all(1)
    assert (ours[free][:, :2] == room[free]).any(0).all()
    assert torch.corrcoef((ours[free][:, :2] / room[free]).T)[0, 1].abs() < 0.1
    for column in range(4):
        grid = torch.arange(0, 41)
        below = [(values[:, column, None] <= grid).double().mean(0) for values in (ours, theirs)]
        # Kolmogorov and Smirnov, two samples, at 0.0001
        assert (below[0] - below[1]).abs().max() < 2.23 * math.sqrt(2 / 3000)


def test_resized_crops_fall_back_to_the_center():
    box = PRESETS["simclr"].draw(500, 3, (4, 400), rng()).box
    assert (box == torch.tensor([197, 0, 5, 4])).all(1).any()
    assert (box[:, 3] <= 4).all()


def test_crop_rotate_jitter_keeps_three_quarters_and_turns_by_quarters():
    draws = PRESETS["crop-rotate-jitter"].draw(MANY, 3, (32, 20), rng())
    assert_uniform(draws.box[:, 2], range(15, 21))
    assert_uniform(draws.box[:, 3], range(24, 33))
    assert (draws.box[:, :2] >= 0).all()
    assert (draws.box[:, :2] + draws.box[:, 2:] <= torch.tensor([20, 32])).all()
    assert_uniform(draws.levels[:, 0], [0, 90, 180, 270])
    assert (draws.ops[:, 0] == Op.ROTATE).all()


def test_pascal_turns_by_ten_degrees_and_flips_both_ways():
    draws = PRESETS["pascal"].draw(MANY, 3, (32, 20), rng())
    assert (draws.ops == Op.ROTATE).all()
    upside_down = draws.levels[:, 0] > 90
    angle = draws.levels[:, 0] - 180 * upside_down
    assert angle.abs().max() <= 10
    assert_uniform(((angle + 10) / 2).floor().clamp(max=9), range(10))
    # a mirror and half a turn are a flip top to bottom: all four pairs of flips are equally likely
    assert_uniform(2 * (draws.flip ^ upside_down) + upside_down, range(4))
    assert_uniform(2 * (draws.flip ^ upside_down)[angle > 0] + upside_down[angle > 0], range(4))
    twin = PRESETS["pascal-noflip"].draw(MANY, 3, (32, 20), rng()).levels
    assert twin.abs().max() <= 10
    assert_uniform(((twin[:, 0] + 10) / 2).floor().clamp(max=9), range(10))


def pascal_in_pillows_words(image, draws, row, pillow, *, angle):
    """Flip left to right, flip top to bottom, rotate: three calls of Pillow."""
    upside_down = draws.levels[row, 0] > 90
    shown = pillow.to_pillow(image)
    if draws.flip[row] ^ upside_down:
        shown = ImageOps.mirror(shown)
    if upside_down:
        shown = ImageOps.flip(shown)
    return pillow.to_tensor(shown.rotate(angle)).int()


def test_pascals_flips_are_pillows_pixel_for_pixel_and_exact_in_the_geometry(pictures, pillow):
    preset, images = PRESETS["pascal"], pictures.repeat(2, 1, 1, 1)
    n, channels, height, width = images.shape
    draws = preset.draw(n, channels, (height, width), rng(5))
    levels = torch.where(draws.levels > 90, 180.0, 0.0).double()
    draws = draws._replace(levels=levels, matrices=matrices(draws.ops, levels, (height, width)))
    view = preset.apply(images, draws)
    assert view.valid.all()
    for row in range(n):
        expected = pascal_in_pillows_words(images[row], draws, row, pillow, angle=0)
        assert torch.equal((view.pixels[row] * 255).round().int(), expected)
        down, across = levels[row, 0] > 0, bool(draws.flip[row]) ^ bool(levels[row, 0] > 0)
        exact = [
            [-1.0 if across else 1.0, 0, width if across else 0],
            [0, -1.0 if down else 1.0, height if down else 0],
        ]
        assert view.geometry.matrix[row].tolist() == exact
    assert {(bool(f), bool(level > 0)) for f, level in zip(draws.flip, levels, strict=True)} == {
        (a, b) for a in (False, True) for b in (False, True)
    }


def test_pascal_views_are_pillows_flips_then_its_rotation(pictures, pillow):
    preset, images = PRESETS["pascal"], pictures.repeat(6, 1, 1, 1)
    n, channels, height, width = images.shape
    draws = preset.draw(n, channels, (height, width), rng(4))
    ours = (preset.apply(images, draws).pixels * 255).round().int()
    angles = (draws.levels[:, 0] - 180 * (draws.levels[:, 0] > 90)).tolist()
    theirs = [
        pascal_in_pillows_words(image, draws, row, pillow, angle=angle)
        for row, (image, angle) in enumerate(zip(images, angles, strict=True))
    ]
    assert ((ours - torch.stack(theirs)).abs().amax(1) > 0).float().mean() < 1e-3


def test_holes():
    google = PRESETS["randaugment/google"].draw(MANY, 3, (32, 32), rng()).hole
    # the center is uniform, so the right and lower edges are too, until they are clipped
    assert_uniform(google[google[:, 0] > 0][:, 0], range(1, 24))
    assert (google[:, 2:] - google[:, :2]).max() == 16
    assert (google[:, 2:] - google[:, :2]).min() == 8
    torchssl = PRESETS["randaugment/torchssl"].draw(MANY, 3, (32, 32), rng()).hole
    side = (torchssl[:, 2:] - torchssl[:, :2])[(torchssl[:, :2] > 0).all(1) & (torchssl[:, 2:] < 32).all(1)]
    assert side.max() <= 17
    assert (side[:, 0] - side[:, 1]).abs().max() <= 1
    assert torchssl.min() >= 0
    assert torchssl.max() <= 32
    # the source's own steps
    generator = rng(1)
    length, x, y = torch.rand(3, MANY, generator=generator, dtype=torch.float64) * torch.tensor([[16.0], [32], [32]])
    left, top = (x - length / 2).clamp(min=0).floor(), (y - length / 2).clamp(min=0).floor()
    right, bottom = (left + length).clamp(max=32).floor() + 1, (top + length).clamp(max=32).floor() + 1
    theirs = torch.stack((left, top, right.clamp(max=32), bottom.clamp(max=32)), 1)
    for measure in (
        lambda box: box[:, 2] - box[:, 0],
        lambda box: (box[:, 2:] - box[:, :2]).prod(1),
        lambda box: box[:, 1],
    ):
        grid = torch.arange(300)
        below = [(measure(boxes.double())[:, None] <= grid).double().mean(0) for boxes in (torchssl, theirs)]
        assert (below[0] - below[1]).abs().max() < 2.23 * math.sqrt(2 / MANY)
    assert torch.corrcoef(torchssl[:, :2].double().T)[0, 1].abs() < 0.2


def test_one_channel_draws_no_operation_on_color():
    for name in NAMES:
        colored, grey = (PRESETS[name].draw(500, channels, (28, 28), rng()) for channels in (3, 1))
        on_color = torch.isin(colored.ops, torch.tensor((Op.COLOR, Op.GRAYSCALE, Op.HUE)))
        assert torch.equal(grey.ops, torch.where(on_color, int(Op.IDENTITY), colored.ops))
        assert torch.equal(grey.levels, colored.levels)
    with pytest.raises(ValueError, match="1 or 3 channels, not 4"):
        PRESETS["weak"].draw(1, 4, (28, 28), rng())


# -------------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize("name", NAMES)
def test_views_equal_pillow_step_by_step(name, pictures, pillow):
    preset = PRESETS[name]
    images = pictures.repeat(6, 1, 1, 1)
    n, channels, height, width = images.shape
    draws = preset.draw(n, channels, (height, width), rng(4))
    view = preset.apply(images, draws)
    ours = (view.pixels * 255).round().int()
    theirs = torch.stack([pillow.view(images[row], draws, row, preset) for row in range(n)]).int()
    off = (ours - theirs).abs().amax(1)
    several = torch.zeros(n, dtype=torch.bool)
    for slot in range(draws.ops.shape[1]):
        several |= (passes_of(draws.ops) == slot + 1).sum(1) > 1
    apart = off[~several]
    assert len(apart) >= 60
    # one resampling: the same picture, but for rare roundings, which a later operation may stretch
    if preset.interpolation == "bilinear":
        bound = 0.01
    else:
        # both sides of the blur are in float32, and differ where the exact value is next to a tie
        bound = 3e-4 if (draws.ops == Op.GAUSSIAN_BLUR).any() else 1e-4
    assert (apart > 0).float().mean() < bound
    # several geometric operations resampled at once, not one after the other: other neighbors are picked
    assert (off[several] > 8).float().mean() < 0.35 or not several.any()


def several_moves(preset, n):
    """Give draws of `n` views with nothing but their geometric operations, at least two that share a transform."""
    draws = preset.draw(100 * n, 3, (32, 32), rng(2))
    passes = passes_of(draws.ops)
    shared = ((passes == 1).sum(1) > 1) | ((passes == 2).sum(1) > 1)
    rate = shared.double().mean().item()
    draws = Draws(*(part[shared][:n] for part in draws))
    ops = torch.where(draws.ops < GEOMETRIC.stop, draws.ops, int(Op.IDENTITY))
    return draws._replace(ops=ops, hole=torch.zeros_like(draws.hole)), rate


@pytest.mark.parametrize("name", ["randaugment/google", "randaugment/torchssl", "randaugment/comatch"])
def test_fill_of_several_transforms_is_where_pillow_has_it(name, pillow):
    preset = PRESETS[name]
    draws, rate = several_moves(preset, 200)
    white = torch.full((200, 3, 32, 32), 255, dtype=torch.uint8)
    ours = preset.apply(white, draws).pixels[:, 0] > 0.75
    theirs = torch.stack([pillow.view(white[row], draws, row, preset)[0] for row in range(200)]) > 191
    off = (ours != theirs).float().mean()
    print(f"{name}: {rate:.1%} of views share a transform; their fill differs on {off:.2%} of pixels")
    assert off < 0.01


@pytest.mark.parametrize("name", ["randaugment/google", "randaugment/torchssl", "randaugment/comatch"])
def test_several_transforms_at_once_differ_from_one_after_the_other_by_little(name, pillow, photos):
    """Deviation 1 of docs/views.md, on real pictures."""
    preset = PRESETS[name]
    draws, _ = several_moves(preset, 320)
    images = photos().repeat(5, 1, 1, 1)
    ours = (preset.apply(images, draws).pixels * 255).round().int()
    theirs = torch.stack([pillow.view(images[row], draws, row, preset) for row in range(320)]).int()
    off = (ours - theirs).abs().amax(1).float()
    shares = ", ".join(f"> {level}: {(off > level).float().mean():.1%}" for level in (1, 8, 32))
    print(f"{name}: grey levels off by {off.mean():.2f} on average; pixels off by {shares}")
    assert off.mean() < 6
    assert (off > 32).float().mean() < 0.06


@pytest.mark.parametrize("name", NAMES)
def test_the_geometry_of_a_view_cuts_the_image_as_the_view_shows_it(name):
    preset = PRESETS[name]
    n, size = 60, (32, 40)
    y, x = torch.meshgrid(torch.linspace(20, 230, 32), torch.linspace(40, 200, 40), indexing="ij")
    images = torch.stack((x, y, x / 2 + y / 2)).to(torch.uint8).expand(n, 3, *size).contiguous()
    draws = preset.draw(n, 3, size, rng(8))
    moves = (draws.ops >= GEOMETRIC.start) & (draws.ops < GEOMETRIC.stop)
    view = preset.apply(images, draws._replace(ops=torch.where(moves, draws.ops, int(Op.IDENTITY))))
    warped, inside = warp(images.float(), view.geometry)
    off = (warped - view.pixels * 255).abs().amax(1)
    assert view.valid.float().mean() > 0.4
    assert not (view.valid & ~inside).float().mean() > 0.001
    # nearest is up to a whole pixel from the true place of a ramp of 6.8 grey levels a pixel, cropping included
    assert off[view.valid].max() < 10
    assert off[view.valid].mean() < 3
    # and the map of an attention grid moves with it: a ramp along x comes out as the source's x
    ramp = torch.arange(40.0).add(0.5).expand(n, 8, 40)[:, :, 2::5] / 40
    moved, known = warp(ramp, view.geometry)
    rows = torch.stack(torch.meshgrid(torch.arange(8) + 0.5, torch.arange(8) + 0.5, indexing="ij")[::-1], -1)
    at = (rows * torch.tensor([5.0, 4.0])) @ view.geometry.matrix[:, None, :, :2].mT
    at = (at + view.geometry.matrix[:, None, None, :, 2])[..., 0] / 40
    inner = known & (at > 0.07) & (at < 0.93)
    assert torch.allclose(moved[inner], at[inner], atol=1e-4)


def test_valid_is_what_came_from_the_image():
    """Slow reference: follow every pixel back through hole, transform and frame."""
    preset = PRESETS["randaugment/torchssl"]
    size = (20, 24)
    draws = preset.draw(40, 3, size, rng(9))
    view = preset.apply(torch.zeros(40, 3, *size, dtype=torch.uint8), draws)
    borderline = 0
    for row in range(40):
        left, top, right, bottom = draws.hole[row].tolist()
        chain = [draws.matrices[row, slot].tolist() for slot in reversed(range(3))]
        for i in range(size[0]):
            for j in range(size[1]):
                x, y = j + 0.5, i + 0.5
                shown = not (top <= i < bottom and left <= j < right)
                edge = 1.0
                for a, b in chain:
                    x, y = a[0] * x + a[1] * y + a[2], b[0] * x + b[1] * y + b[2]
                    shown = shown and 0 <= x < size[1] and 0 <= y < size[0]
                    edge = min(edge, abs(x), abs(y), abs(x - size[1]), abs(y - size[0]))
                # the pixel of the frame that it shows
                x = math.floor(x) if not draws.flip[row] else size[1] - 1 - math.floor(x)
                x, y = x + draws.box[row, 0].item(), math.floor(y) + draws.box[row, 1].item()
                shown = shown and 0 <= x < size[1] and 0 <= y < size[0]
                if bool(view.valid[row, i, j]) != shown:
                    borderline += 1
    # three transforms in two passes look the frame's validity up at whole pixels in between
    assert borderline < 0.005 * 40 * size[0] * size[1]


def test_a_slice_of_the_global_draws_makes_a_slice_of_the_views(pictures):
    n, channels, height, width = pictures.shape
    for name in NAMES:
        preset = PRESETS[name]
        draws = preset.draw(n, channels, (height, width), rng(3))
        whole = preset.apply(pictures, draws)
        for start in (0, n // 2):
            stop = start + n // 2
            part = preset.apply(pictures[start:stop], to(take(draws, start, stop), "cpu"))
            assert torch.equal(part.pixels, whole.pixels[start:stop])
            assert torch.equal(part.valid, whole.valid[start:stop])
            assert torch.equal(part.geometry.matrix, whole.geometry.matrix[start:stop])


def test_one_slot_may_hold_every_operation():
    ops = torch.tensor([*PHOTOMETRIC, Op.IDENTITY] * 2)
    ops = ops[torch.randperm(len(ops), generator=rng())]
    n, levels = len(ops), torch.full((len(ops),), 0.4, dtype=torch.float64)
    levels[ops == Op.POSTERIZE], levels[ops == Op.SOLARIZE] = 3.0, 90.0
    images = torch.randint(0, 256, (n, 3, 24, 20), dtype=torch.uint8)
    draws = PRESETS["none"].draw(n, 3, (24, 20), rng())
    matrices = torch.eye(2, 3, dtype=torch.float64).repeat(n, 1, 1, 1)
    draws = draws._replace(ops=ops[:, None], levels=levels[:, None], matrices=matrices)
    view = (PRESETS["none"].apply(images, draws).pixels * 255).round().to(torch.uint8)
    for row, op in enumerate(ops.tolist()):
        image = images[row : row + 1]
        expected = image if op == Op.IDENTITY else PHOTOMETRIC[Op(op)](image, levels[row : row + 1])
        assert torch.equal(view[row : row + 1], expected)


def test_blocks_do_not_show(monkeypatch):
    images = torch.randint(0, 256, (50, 3, 32, 32), dtype=torch.uint8)
    preset = PRESETS["randaugment/torchssl"]
    draws = preset.draw(50, 3, (32, 32), rng())
    assert images.numel() < BLOCK
    whole = preset.apply(images, draws)
    monkeypatch.setattr("eke.augment.pipeline.BLOCK", 7 * 3072)
    blocks = preset.apply(images, draws)
    assert torch.equal(whole.pixels, blocks.pixels)
    assert torch.equal(whole.valid, blocks.valid)


def test_draws_depend_on_the_generator_alone():
    for name in NAMES:
        first, again, other = (PRESETS[name].draw(20, 3, (32, 32), rng(seed)) for seed in (1, 1, 2))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert name == "none" or not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_images_are_left_as_they_were():
    for name in NAMES:
        images = torch.randint(0, 256, (30, 3, 16, 16), dtype=torch.uint8)
        before = images.clone()
        PRESETS[name].apply(images, PRESETS[name].draw(30, 3, (16, 16), rng()))
        assert torch.equal(images, before)


def test_no_images_give_no_views():
    for name in NAMES:
        view = PRESETS[name].apply(torch.empty(0, 3, 8, 8, dtype=torch.uint8), PRESETS[name].draw(0, 3, (8, 8), rng()))
        assert view.pixels.shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("ops", "expected"),
    [
        ([Op.ROTATE, Op.SHEAR_X], [1, 1]),
        ([Op.ROTATE, Op.COLOR], [1, 0]),
        ([Op.COLOR, Op.ROTATE], [0, 1]),
        ([Op.ROTATE, Op.COLOR, Op.SHEAR_X], [1, 0, 2]),
        ([Op.COLOR, Op.ROTATE, Op.SHEAR_X], [0, 1, 1]),
        ([Op.COLOR, Op.HUE, Op.SHEAR_X], [0, 0, 2]),
        ([Op.ROTATE, Op.IDENTITY, Op.SHEAR_X], [1, 0, 1]),
        ([Op.ROTATE], [1]),
    ],
)
def test_geometric_neighbors_share_a_transform(ops, expected):
    assert passes_of(torch.tensor([ops])).tolist() == [expected]


@pytest.mark.gpu
def test_cuda_makes_the_same_views():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    for name in NAMES:
        preset = PRESETS[name]
        draws = preset.draw(64, 3, (32, 32), rng())
        here, there = preset.apply(images, draws), preset.apply(images.cuda(), to(draws, "cuda"))
        off = (here.pixels - there.pixels.cpu()).abs() * 255
        assert (off > 0.5).float().mean() < (0.01 if preset.interpolation == "bilinear" else 1e-4)
        assert torch.equal(here.valid, there.valid.cpu())
        assert torch.equal(here.geometry.matrix, there.geometry.matrix.cpu())
