import math

import pytest
import torch
from torch.autograd import gradcheck

from eke.errors import ConfigError
from eke.explain.activations import scaled_to_unit
from eke.explain.scale import center_box, is_flat, map_entropy, normalize

SCALES = ("minmax", "l2", "sum")


def slow(values, scale):
    if scale == "minmax":
        return [(v - min(values)) / (max(values) - min(values)) for v in values]
    if scale == "l2":
        return [v / math.sqrt(sum(u * u for u in values)) for v in values]
    return [v / sum(abs(u) for u in values) for v in values]


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 2, 3, 5)])
@pytest.mark.parametrize("scale", SCALES)
def test_each_image_has_its_own_scale_over_all_its_positions(scale, shape):
    maps = torch.randn(shape).double() * torch.tensor([1.0, 1e-9, 1e9, 3.0]).view(-1, *[1] * (len(shape) - 1))
    got = normalize(maps, scale)
    assert got.shape == maps.shape
    for n in range(4):
        assert got[n].flatten().tolist() == pytest.approx(slow(maps[n].flatten().tolist(), scale), rel=1e-10, abs=1e-14)


def test_none_leaves_maps_as_they_are():
    maps = torch.stack([torch.randn(3, 4), torch.full((3, 4), 2.0)])
    assert torch.equal(normalize(maps, "none"), maps)


@pytest.mark.parametrize("scale", SCALES)
def test_gradients_equal_finite_differences(scale):
    maps = torch.randn(3, 2, 3).double().requires_grad_()
    assert gradcheck(lambda m: normalize(m, scale), maps)
    assert gradcheck(lambda m: normalize(m * 1e-3, scale), maps)


@pytest.mark.parametrize("value", [0.0, 0.3, -1e-30, 1e30])
@pytest.mark.parametrize("scale", SCALES)
def test_flat_maps_become_zero_with_a_gradient_of_zero(scale, value):
    maps = torch.stack([torch.full((3, 4), value), torch.randn(3, 4)]).requires_grad_()
    got = normalize(maps, scale)
    (got * torch.randn(2, 3, 4)).sum().backward()
    assert not got[0].any()
    assert not maps.grad[0].any()
    assert maps.grad.isfinite().all()
    assert got[1].any()
    assert maps.grad[1].any()


@pytest.mark.parametrize("size", [1e-30, 1e30, 3e38])
@pytest.mark.parametrize("scale", SCALES)
def test_squares_and_ranges_of_tiny_and_huge_maps_stay_in_range(scale, size):
    maps = torch.tensor([[[-1.0, 0.5], [0.25, 1.0]]])
    torch.testing.assert_close(normalize(maps * size, scale), normalize(maps, scale))


def test_rounding_is_flat_and_signal_is_not():
    maps = torch.full((5, 2, 2), 0.3)
    maps[1, 0, 0] += 1e-7
    maps[2, 0, 0] += 1e-4
    maps[3] = 0
    maps[4] = torch.tensor([[1e-12, 0], [0, 0]])
    assert is_flat(maps).tolist() == [True, True, False, True, False]
    assert is_flat(torch.zeros(2, 2, 3, 3)).tolist() == [True, True]


def test_the_gradient_of_display_scaling_is_finite_where_a_map_is_flat():
    maps = torch.stack([torch.full((2, 2), 7.0), torch.tensor([[0.0, 1.0], [3.0, 2.0]])]).requires_grad_()
    scaled_to_unit(maps).square().sum().backward()
    assert maps.grad.isfinite().all()
    assert maps.grad[1].any()


@pytest.mark.parametrize("function", [lambda m: normalize(m, "l2"), lambda m: normalize(m, "minmax"), map_entropy])
def test_half_precision_is_scaled_in_single(function):
    maps = torch.randn(2, 3, 4).bfloat16()
    assert function(maps).dtype == torch.float32
    torch.testing.assert_close(function(maps), function(maps.float()))


def test_entropy_says_how_far_a_map_is_spread():
    maps = torch.zeros(5, 2, 4).double()
    maps[0, 1, 2] = -3.0  # one place
    maps[1, 0] = 1.0  # half of the places
    maps[2] = 5.0
    maps[4] = torch.randn(2, 4)
    share = [abs(v) / maps[4].abs().sum().item() for v in maps[4].flatten().tolist()]
    expected = [0, math.log(4), math.log(8), math.log(8), -sum(p * math.log(p) for p in share)]
    assert map_entropy(maps).tolist() == pytest.approx(expected, abs=1e-12)


def test_the_gradient_of_entropy_is_finite_where_places_are_zero():
    maps = torch.tensor([[[0.0, 1.0, 3.0]], [[0.0, 0.0, 0.0]]]).requires_grad_()
    map_entropy(maps).sum().backward()
    assert maps.grad.isfinite().all()
    assert maps.grad[0].any()
    assert gradcheck(map_entropy, torch.rand(2, 2, 3).double().requires_grad_())


@pytest.mark.parametrize(("h", "w", "area_rate"), [(7, 7, 0.25), (4, 6, 0.5), (5, 3, 1.0), (8, 8, 0.01), (1, 9, 0.3)])
def test_the_center_box_covers_its_share(h, w, area_rate):
    box = center_box(h, w, area_rate)
    assert box.shape == (h, w)
    assert box.mean().item() == pytest.approx(area_rate, rel=1e-5)
    torch.testing.assert_close(box, box.flip(0, 1))
    fine = torch.zeros(h * 100, w * 100)  # the same box, drawn a hundred times finer
    side = math.sqrt(area_rate)
    top, left = round(h * 50 * (1 - side)), round(w * 50 * (1 - side))
    fine[top : h * 100 - top, left : w * 100 - left] = 1
    torch.testing.assert_close(box, fine.view(h, 100, w, 100).mean((1, 3)), rtol=0, atol=0.03)


def test_misuse_is_named():
    with pytest.raises(ConfigError, match="Did you mean 'minmax'"):
        normalize(torch.zeros(1, 2, 2), "min-max")
    for rate in (0.0, 1.5):
        with pytest.raises(ConfigError, match="area_rate"):
            center_box(3, 3, rate)
