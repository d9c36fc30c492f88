import math

import pytest
import torch

from eke.explain.activations import liveliest_channels, scaled_to_unit


def slow_deviation(map_):
    values = [float(v) for row in map_ for v in row]
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))


def test_the_channels_that_vary_most_come_first():
    maps = torch.randn(20, 5, 7, dtype=torch.float64) * torch.rand(20, 1, 1, dtype=torch.float64)
    deviations = [slow_deviation(map_) for map_ in maps]
    expected = sorted(range(20), key=lambda c: -deviations[c])[:6]
    assert liveliest_channels(maps, 6).tolist() == expected


def test_a_channel_that_is_high_everywhere_says_nothing():
    maps = torch.zeros(3, 4, 4)
    maps[0] = 100.0
    maps[2, 0, 0] = 1.0
    assert liveliest_channels(maps, 3).tolist() == [2, 0, 1]


def test_there_may_be_fewer_channels_than_asked_for():
    assert liveliest_channels(torch.zeros(2, 4, 4), 8).tolist() == [0, 1]


def test_each_map_is_scaled_by_its_own_ends():
    maps = torch.randn(4, 6, 5, dtype=torch.float64) * torch.tensor([1, 10, 0.1, 1e6], dtype=torch.float64).view(
        4, 1, 1
    )
    shown = scaled_to_unit(maps)
    for map_, out in zip(maps, shown, strict=True):
        low, high = min(map_.flatten().tolist()), max(map_.flatten().tolist())
        for y in range(6):
            for x in range(5):
                assert float(out[y, x]) == pytest.approx((float(map_[y, x]) - low) / (high - low), abs=1e-9)


def test_a_flat_map_is_dark_and_finite():
    shown = scaled_to_unit(torch.full((2, 3, 3), 7.0))
    assert shown.tolist() == torch.zeros(2, 3, 3).tolist()


def test_the_smallest_and_the_largest_numbers_stay_in_range():
    tiny = torch.tensor([[[0.0, 1e-45]]])
    large = torch.tensor([[[-3e38, 3e38, 0.0]]])
    for maps in (tiny, large):
        shown = scaled_to_unit(maps)
        assert shown.isfinite().all()
        assert shown.min() == 0
        assert shown.max() == 1


def test_half_precision_is_scaled_in_single():
    assert scaled_to_unit(torch.tensor([[[0.0, 3.0]]], dtype=torch.bfloat16)).dtype == torch.float32
