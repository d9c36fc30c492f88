"""Distances of maps against loops over images and places."""

import math

import pytest
import torch

from eke.losses.maps import MAP_LOSSES, map_contrast, map_cosine, map_squared_error


def example(shape=(3, 4, 5)):
    draw = torch.Generator().manual_seed(0)
    maps, target = (torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2))
    valid = torch.rand(shape, generator=draw) < 0.6
    return maps.requires_grad_(), target, valid


def places(maps, valid, i):
    return maps[i].detach()[valid[i]].tolist()


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5)])
def test_squared_error_is_the_mean_over_images_of_their_valid_places(shape):
    maps, target, valid = example(shape)
    each = []
    for i in range(shape[0]):
        pairs = list(zip(places(maps, valid, i), places(target, valid, i), strict=True))
        each.append(sum((a - b) ** 2 for a, b in pairs) / len(pairs))
    assert map_squared_error(maps, target, valid).item() == pytest.approx(sum(each) / len(each), rel=1e-12)


def cosine(a, b):
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norms


def test_cosine_is_one_minus_the_cosine_of_the_valid_places():
    maps, target, valid = example()
    each = [1 - cosine(places(maps, valid, i), places(target, valid, i)) for i in range(3)]
    assert map_cosine(maps, target, valid).item() == pytest.approx(sum(each) / 3, rel=1e-12)


def test_contrast_finds_the_own_target_among_all():
    maps, target, valid = example()
    full = [[(m * v).flatten().tolist() for m, v in zip(x.detach(), valid, strict=True)] for x in (maps, target)]
    each = []
    for i in range(3):
        similar = [cosine(full[0][i], full[1][j]) / 0.5 for j in range(3)]
        each.append(-similar[i] + math.log(sum(math.exp(x) for x in similar)))
    assert map_contrast(maps, target, valid).item() == pytest.approx(sum(each) / 3, rel=1e-12)


def test_maps_that_are_all_alike_do_not_win_the_contrast():
    same = torch.rand(1, 4, 4, dtype=torch.float64).expand(8, -1, -1)
    valid = torch.ones(8, 4, 4, dtype=torch.bool)
    assert map_squared_error(same, same, valid) == map_cosine(same, same, valid).round(decimals=12) == 0
    assert map_contrast(same, same, valid).item() == pytest.approx(math.log(8))
    different = torch.eye(16, dtype=torch.float64)[:8].view(8, 4, 4)
    assert map_contrast(different, different, valid) < math.log(8) - 1


@pytest.mark.parametrize("name", MAP_LOSSES)
def test_invalid_places_change_nothing_and_get_no_gradient(name):
    maps, target, valid = example()
    loss = MAP_LOSSES[name](maps, target, valid)
    (grad,) = torch.autograd.grad(loss, maps)
    assert (grad[~valid] == 0).all()
    assert (grad[valid] != 0).all()
    other = torch.where(valid, target, 100.0)
    assert MAP_LOSSES[name](maps, other, valid).item() == loss.item()


@pytest.mark.parametrize("name", MAP_LOSSES)
def test_flat_maps_and_images_without_a_valid_place_are_finite(name):
    maps, target, valid = example()
    valid[0] = False
    flat = torch.zeros_like(maps).requires_grad_()
    loss = MAP_LOSSES[name](flat, target, valid)
    (grad,) = torch.autograd.grad(loss, flat)
    assert torch.isfinite(loss)
    assert torch.isfinite(grad).all()
    whole = torch.ones_like(valid[1:])
    if name != "contrastive":
        assert MAP_LOSSES[name](maps[1:], target[1:], whole) > 0
        assert MAP_LOSSES[name](maps[:1], target[:1], valid[:1]) == 0
