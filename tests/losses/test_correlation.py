"""Measures of how alike two maps are, against loops over images and places, numpy and scikit-image."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity as theirs
from torch.autograd import gradcheck

from eke.errors import ConfigError
from eke.losses.correlation import CORRELATIONS, cross_correlation, pearson, squashed, ssim, structural_similarity

SHAPES = [(3, 4, 5), (2, 3, 12, 13)]


def pair(shape=(3, 4, 5), dtype=torch.float64):
    """Two batches of maps that are neither alike nor unlike."""
    draw = torch.Generator().manual_seed(0)
    common, *own = (torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(3))
    return tuple((common + each + 0.5).to(dtype) for each in own)


# Values


@pytest.mark.parametrize("shape", SHAPES)
def test_pearson_is_that_of_numpy_for_each_image(shape):
    first, second = pair(shape)
    expected = [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(pearson(first, second), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_cross_correlation_is_the_cosine_of_each_image(shape):
    first, second = pair(shape)
    expected = []
    for a, b in zip(first, second, strict=True):
        a, b = a.flatten().tolist(), b.flatten().tolist()
        product = sum(x * y for x, y in zip(a, b, strict=True))
        expected.append(product / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(x * x for x in b)))
    np.testing.assert_allclose(cross_correlation(first, second), expected, rtol=1e-12)


def scikit(a, b, data_range, **more):
    given = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "win_size": 11}
    return theirs(a.numpy(), b.numpy(), data_range=data_range, **given, **more)


@pytest.mark.parametrize(("shape", "data_range"), [((3, 11, 11), 1.0), ((2, 12, 17), 255.0), ((2, 40, 32), 3.0)])
def test_structural_similarity_is_that_of_scikit_image(shape, data_range):
    first, second = (data_range * maps.sigmoid() for maps in pair(shape))
    expected = [scikit(a, b, data_range) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(structural_similarity(first, second, data_range), expected, rtol=1e-10)


def test_structural_similarity_of_clips_is_the_mean_over_frames():
    first, second = pair((2, 3, 12, 13))
    expected = [scikit(a, b, 1.0, channel_axis=0) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(structural_similarity(first, second), expected, rtol=1e-10)


def slow_ssim(a, b, data_range, side):
    """Wang et al., eq. 13 to 16, window by window."""
    weights = torch.empty(side, side, dtype=torch.float64)
    for i in range(side):
        for j in range(side):
            weights[i, j] = math.exp(-((i - side // 2) ** 2 + (j - side // 2) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2, found = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2, []
    for i in range(a.shape[0] - side + 1):
        for j in range(a.shape[1] - side + 1):
            x, y = (each[i : i + side, j : j + side] for each in (a, b))
            mu_x, mu_y = (weights * x).sum(), (weights * y).sum()
            s_xx, s_yy = (weights * (x - mu_x) ** 2).sum(), (weights * (y - mu_y) ** 2).sum()
            s_xy = (weights * (x - mu_x) * (y - mu_y)).sum()
            luminance = (2 * mu_x * mu_y + c1) / (mu_x**2 + mu_y**2 + c1)
            found.append(float(luminance * (2 * s_xy + c2) / (s_xx + s_yy + c2)))
    return sum(found) / len(found)


@pytest.mark.parametrize(
    ("size", "side"),
    [((12, 14), 11), ((11, 30), 11), ((10, 12), 9), ((8, 8), 7), ((7, 9), 7), ((5, 4), 3), ((2, 3), 1), ((1, 6), 1)],
)
def test_windows_on_small_maps_are_the_largest_that_fit(size, side):
    first, second = pair((2, *size))
    expected = [slow_ssim(a, b, 2.0, side) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(structural_similarity(first, second, 2.0), expected, rtol=1e-9)


def test_the_slow_reference_is_that_of_scikit_image_too():
    first, second = pair((1, 13, 12))
    assert slow_ssim(first[0], second[0], 1.0, 11) == pytest.approx(scikit(first[0], second[0], 1.0), rel=1e-10)


@pytest.mark.parametrize("shape", [(3, 12, 13), (2, 3, 12, 13)])
def test_ssim_is_taken_of_maps_between_0_and_1(shape):
    first, second = pair(shape)
    expected = []
    for a, b in zip(first, second, strict=True):
        a, b = ((each - each.min()) / (each.max() - each.min()) for each in (a, b))
        expected.append(scikit(a, b, 1.0, channel_axis=0 if len(shape) == 4 else None))
    np.testing.assert_allclose(ssim(first, second), expected, rtol=1e-10)


# What all measures share


def test_every_measure_has_its_name():
    assert dict(CORRELATIONS) == {"pearson": pearson, "cross_correlation": cross_correlation, "ssim": ssim}


@pytest.mark.parametrize("name", CORRELATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_map_is_most_alike_to_itself_and_the_order_does_not_matter(name, shape):
    first, second = pair(shape)
    measure = CORRELATIONS[name]
    assert measure(first, second).shape == shape[:1]
    torch.testing.assert_close(measure(first, first), torch.ones(shape[0], dtype=torch.float64))
    torch.testing.assert_close(measure(first, second), measure(second, first))
    assert (measure(first, second).abs() < 0.99).all()


@pytest.mark.parametrize("name", ["pearson", "cross_correlation"])
def test_an_inverted_map_is_opposite(name):
    first, _ = pair()
    torch.testing.assert_close(CORRELATIONS[name](first, -first), -torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("name", CORRELATIONS)
@pytest.mark.parametrize("scale", [1e-25, 1e-4, 1e25])
def test_the_size_of_the_values_says_nothing_even_where_squares_leave_single_precision(name, scale):
    first, second = pair(dtype=torch.float32)
    measure = CORRELATIONS[name]
    torch.testing.assert_close(measure(scale * first, second), measure(first, second), rtol=1e-5, atol=1e-6)
    scaled = (scale * first).requires_grad_()
    (grad,) = torch.autograd.grad(measure(scaled, second).sum(), scaled)
    plain = first.clone().requires_grad_()
    (expected,) = torch.autograd.grad(measure(plain, second).sum(), plain)
    torch.testing.assert_close(scale * grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["pearson", "ssim"])
def test_a_constant_that_is_added_says_nothing_but_to_the_cosine(name):
    first, second = pair()
    torch.testing.assert_close(CORRELATIONS[name](first + 7, second), CORRELATIONS[name](first, second))
    assert (cross_correlation(first + 7, second) - cross_correlation(first, second)).abs().min() > 0.01


@pytest.mark.parametrize("name", CORRELATIONS)
@pytest.mark.parametrize("kind", ["none", "sigmoid_z"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 4, 5)])
def test_gradients_are_those_of_finite_differences(name, kind, shape):
    first, second = (maps.requires_grad_() for maps in pair(shape))
    assert gradcheck(lambda a, b: CORRELATIONS[name](squashed(a, kind), squashed(b, kind)), (first, second))


# Flat maps


FLAT = {
    "zero": torch.zeros(4, 5),
    "constant": torch.full((4, 5), 0.1),
    "negative": torch.full((4, 5), -3e4),
    "rounding": 0.1 + 4e-9 * torch.arange(20.0).view(4, 5),
}


@pytest.mark.parametrize("kind", FLAT)
@pytest.mark.parametrize("name", ["pearson", "ssim"])
def test_a_flat_map_is_alike_to_nothing_and_gets_no_gradient(name, kind):
    flat = FLAT[kind]
    first, second = pair((2, 4, 5), torch.float32)
    first[0] = flat
    for other in (second, torch.stack([flat, second[1]])):
        a, b = first.clone().requires_grad_(), other.clone().requires_grad_()
        similarity = CORRELATIONS[name](a, b)
        assert similarity[0] == 0
        assert similarity[1] != 0
        for grad in torch.autograd.grad(similarity.sum(), (a, b)):
            assert not grad[0].any()
            assert grad.isfinite().all()
            assert grad[1].all()


def test_a_map_just_above_rounding_is_none_that_is_flat():
    rising = torch.arange(20.0, dtype=torch.float64).view(1, 4, 5)
    bumpy = 1 + 3e-6 * rising / 19
    assert pearson(bumpy, rising) > 0.999999
    assert pearson(bumpy.float(), rising.float()) > 0.9


def test_the_cosine_of_zeros_is_0_and_that_of_constants_is_not():
    zeros, (_, second) = torch.zeros(3, 4, 5, requires_grad=True), pair(dtype=torch.float32)
    for other in (second, torch.zeros(3, 4, 5)):
        similarity = cross_correlation(zeros, other)
        assert not similarity.any()
        (grad,) = torch.autograd.grad(similarity.sum(), zeros)
        assert not grad.any()
    constant = torch.full((1, 4, 5), 2.0)
    torch.testing.assert_close(cross_correlation(constant, 3 * constant), torch.ones(1))


# Squashing


@pytest.mark.parametrize("shape", SHAPES)
def test_sigmoid_z_is_the_sigmoid_of_standard_scores(shape):
    maps, _ = pair(shape)
    got = squashed(1e-4 * maps, "sigmoid_z")
    assert got.shape == shape
    for map_, row in zip(maps, got, strict=True):
        values = map_.flatten().tolist()
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
        expected = [1 / (1 + math.exp(-(value - mean) / deviation)) for value in values]
        np.testing.assert_allclose(row.flatten(), expected, rtol=1e-10)


def test_without_squashing_maps_stay_as_they_are():
    maps, _ = pair()
    assert torch.equal(squashed(maps, "none"), maps)


@pytest.mark.parametrize("kind", FLAT)
def test_a_flat_map_is_squashed_to_one_half(kind):
    maps = FLAT[kind][None].clone().requires_grad_()
    got = squashed(maps, "sigmoid_z")
    assert (got == 0.5).all()
    (grad,) = torch.autograd.grad(got.square().sum(), maps)
    assert not grad.any()
    assert pearson(got, pair((1, 4, 5))[0]) == 0


def test_an_unknown_squash_is_refused():
    with pytest.raises(ConfigError, match="Did you mean 'sigmoid_z'"):
        squashed(torch.rand(1, 2, 2), "sigmoid")


# Precision


@pytest.mark.parametrize("name", CORRELATIONS)
def test_half_precision_and_autocast_do_not_round_the_measure(name):
    first, second = pair((2, 12, 13), torch.bfloat16)
    expected = CORRELATIONS[name](*(squashed(maps.double(), "sigmoid_z") for maps in (first, second)))
    plain = CORRELATIONS[name](first.double(), second.double())
    with torch.autocast("cpu", torch.bfloat16):
        got = CORRELATIONS[name](*(squashed(maps, "sigmoid_z") for maps in (first, second)))
        assert squashed(first, "none").dtype == torch.float32
        torch.testing.assert_close(CORRELATIONS[name](first, second), plain.float(), rtol=1e-4, atol=1e-5)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected.float(), rtol=1e-4, atol=1e-5)
