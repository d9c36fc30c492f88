"""What a map marks, and images of which only that is kept."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from eke.errors import ConfigError
from eke.explain.kept import hottest, keep


@pytest.mark.parametrize("area_rate", [0.25, 0.1, 1.0])
def test_the_hottest_places_of_the_enlarged_map_are_marked(area_rate: float) -> None:
    maps = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    marked = hottest(maps, (12, 20), area_rate)
    assert marked.shape == (3, 12, 20)
    for map_, mark in zip(maps, marked, strict=True):
        enlarged = F.interpolate(map_[None, None], (12, 20), mode="bilinear", align_corners=False)[0, 0].numpy()
        n = round(area_rate * 240)
        threshold = np.sort(enlarged.ravel())[::-1][n - 1]
        np.testing.assert_array_equal(mark.numpy() == 1, enlarged >= threshold)
        assert set(mark.unique().tolist()) <= {0.0, 1.0}


def test_equal_places_are_still_so_many() -> None:
    assert hottest(torch.ones(2, 4, 4), (8, 8), 0.25).sum((1, 2)).tolist() == [16, 16]
    assert hottest(torch.ones(1, 1, 1), (2, 2), 1e-9).sum() == 1, "at least one"


@pytest.mark.parametrize("area_rate", [0.0, -0.1, 1.1])
def test_a_share_that_is_none_is_refused(area_rate: float) -> None:
    with pytest.raises(ConfigError, match="share above 0 and up to 1"):
        hottest(torch.ones(1, 2, 2), (4, 4), area_rate)


def test_the_rest_is_painted() -> None:
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    marked = torch.zeros(2, 4, 4)
    marked[0, 1, 2], marked[1, 3, 3] = 1, 0.5
    fill = torch.tensor([0.1, 0.2, 0.3])
    kept = keep(images, marked, fill)
    for n, c, y, x in np.ndindex(2, 3, 4, 4):
        weight = marked[n, y, x]
        assert kept[n, c, y, x] == weight * images[n, c, y, x] + (1 - weight) * fill[c]
    torch.testing.assert_close(keep(images, marked[0], fill)[1], keep(images[1:], marked[:1], fill)[0])
