"""Maps enlarged, and the order of their places."""

import math

import numpy as np
import pytest
import torch

from eke.errors import DataError
from eke.explain.places import enlarged, random_maps, ranks


def slow(map_: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, pixel by pixel: the cells of the map tile the image, and the last ones reach to its edge."""
    result = np.empty(size)
    for y, x in np.ndindex(size):
        value = 0.0
        sides = []
        for place, n, n_large in ((y, map_.shape[0], size[0]), (x, map_.shape[1], size[1])):
            at = min(max((place + 0.5) * n / n_large - 0.5, 0), n - 1)
            low = math.floor(at)
            sides.append([(low, 1 - (at - low)), (min(low + 1, n - 1), at - low)])
        for i, a in sides[0]:
            for j, b in sides[1]:
                value += a * b * map_[i, j]
        result[y, x] = value
    return result


@pytest.mark.parametrize("size", [(8, 12), (7, 9), (3, 4), (2, 3)])
def test_enlarged_equals_the_pixel_loop(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, 4)
    got = enlarged(maps, size)
    assert got.dtype == torch.float32
    for map_, large in zip(maps, got, strict=True):
        np.testing.assert_allclose(large.numpy(), slow(map_.double().numpy(), size), rtol=1e-5, atol=1e-6)


def test_equal_neighbors_stay_exactly_equal() -> None:
    maps = torch.full((1, 5, 7), 0.3)
    maps[0, 4] = 1.7
    large = enlarged(maps, (37, 53))[0]
    assert (large[:20] == torch.tensor(0.3)).all()
    assert (large[-4:] == torch.tensor(1.7)).all()


@pytest.mark.parametrize("value", [0.0, 0.3, -1e20])
def test_a_flat_map_becomes_zero(value: float) -> None:
    maps = torch.stack([torch.full((3, 4), value) * (1 + 1e-7 * torch.randn(3, 4)), torch.randn(3, 4)])
    large = enlarged(maps, (9, 8))
    assert not large[0].any()
    assert large[1].any()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_map_that_is_not_finite_is_named(value: float) -> None:
    maps = torch.randn(3, 2, 2)
    maps[1, 0, 1] = value
    with pytest.raises(DataError, match="Map 1 is not finite"):
        enlarged(maps, (4, 4))


def test_every_rank_is_there_once_and_heat_falls_along_them() -> None:
    maps = torch.randn(3, 4, 5)
    rank = ranks(maps, (9, 11)).flatten(1)
    assert (rank.sort(1).values == torch.arange(99)).all()
    along = torch.empty(3, 99).scatter_(1, rank, enlarged(maps, (9, 11)).flatten(1))
    assert (along[:, 1:] <= along[:, :-1]).all()


def test_a_flat_map_is_ranked_like_one_random_map_that_is_always_the_same() -> None:
    flat = ranks(torch.full((2, 4, 5), 0.7), (9, 11))
    assert torch.equal(flat[0], flat[1])
    assert torch.equal(flat[:1], ranks(random_maps(1, (4, 5), seed=0), (9, 11)))


def test_equal_places_follow_that_map_within_their_level() -> None:
    maps = torch.zeros(1, 4, 4)
    maps[0, 1:3, 1:3] = 1
    rank = ranks(maps, (4, 4))[0]
    chance = random_maps(1, (4, 4), seed=0)[0]
    assert rank[1:3, 1:3].flatten().sort().values.tolist() == [0, 1, 2, 3], "the hot ones first"
    for level in (0.0, 1.0):
        inside = maps[0] == level
        assert torch.equal(rank[inside].argsort(), chance[inside].argsort(descending=True))


def test_random_maps_are_fixed_by_their_seed() -> None:
    maps = random_maps(200, (3, 5), seed=1)
    assert maps.shape == (200, 3, 5)
    assert torch.equal(maps, random_maps(200, (3, 5), seed=1))
    assert not torch.equal(maps, random_maps(200, (3, 5), seed=2))
    assert 0 <= maps.min() < 0.01 < 0.99 < maps.max() < 1
    assert float(maps.mean()) == pytest.approx(0.5, abs=0.02)


def test_no_map_at_all_is_fine() -> None:
    assert ranks(torch.zeros(0, 3, 3), (6, 6)).shape == (0, 6, 6)
