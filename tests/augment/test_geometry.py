"""Geometry as a value: composing, inverting, and cutting maps of any grid."""

import pytest
import torch

from eke.augment.draws import Op, matrices
from eke.augment.geometry import Geometry, compose, identity, inverse, warp


def geometry_of(op, level, n=1, size=(8, 8)):
    ops = torch.full((n, 1), int(op))
    return Geometry(matrices(ops, torch.full((n, 1), float(level)), size)[:, 0].float(), size, size)


def random_geometry(n=5, size=(16, 24)):
    generator = torch.Generator().manual_seed(2)
    linear = torch.eye(2) + 0.3 * torch.randn(n, 2, 2, generator=generator)
    return Geometry(torch.cat((linear, 3 * torch.randn(n, 2, 1, generator=generator)), 2), size, size)


def test_identity_changes_nothing():
    maps = torch.randn(3, 2, 7, 5)
    warped, valid = warp(maps, identity(3, (28, 20)))
    assert torch.allclose(warped, maps, atol=1e-5)
    assert valid.all()


def test_quarter_turn_of_a_map_of_any_grid():
    for grid in (1, 4, 7, 14):
        maps = torch.randn(2, grid, grid)
        for interpolation in ("nearest", "bilinear"):
            warped, valid = warp(maps, geometry_of(Op.ROTATE, 90, 2), interpolation=interpolation)
            assert torch.allclose(warped, maps.rot90(1, (1, 2)), atol=1e-5)
            assert valid.all()


def test_a_map_moves_by_its_own_cells():
    # 4 of 32 pixels are 1 of 8 cells
    warped, valid = warp(torch.arange(8.0).expand(1, 8, 8), geometry_of(Op.TRANSLATE_X, 4, size=(32, 32)))
    assert warped[0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 7]
    assert valid[0, 0].tolist() == [True] * 7 + [False]


def test_the_grid_of_the_result_can_be_chosen():
    ramp = torch.arange(8.0).add(0.5).expand(1, 8, 8)
    warped, _ = warp(ramp, identity(1, (32, 32)), size=(2, 4))
    assert warped.shape == (1, 2, 4)
    assert torch.allclose(warped[0, 0], torch.tensor([1.0, 3, 5, 7]))


def test_views_of_another_size_than_their_source():
    # the right upper quarter of a 16 x 24 image, as a 4 x 6 view
    quarter = Geometry(torch.tensor([[[2.0, 0, 12], [0, 2, 0]]]), (16, 24), (4, 6))
    maps = torch.arange(16.0 * 24).view(1, 16, 24)
    warped, valid = warp(maps, quarter, size=(8, 12))
    assert torch.allclose(warped, maps[:, :8, 12:])
    assert valid.all()


def test_compose_follows_points_through_both():
    first, second = random_geometry(), random_geometry()._replace(matrix=random_geometry().matrix.flip(0))
    both = compose(first, second)
    points = torch.tensor([[1.0, 2, 1], [5, 0, 1], [20, 15, 1]]).T

    def follow(geometry, at):
        return torch.cat((geometry.matrix @ at, torch.ones(5, 1, 3)), 1)

    expected = follow(first, follow(second, points.expand(5, 3, 3)))
    assert torch.allclose(follow(both, points.expand(5, 3, 3)), expected, atol=1e-4)
    with pytest.raises(ValueError, match="cuts from images"):
        compose(first, identity(5, (3, 3)))


def test_inverse_undoes():
    geometry = random_geometry()._replace(size=(7, 9))
    for pair in ((geometry, inverse(geometry)), (inverse(geometry), geometry)):
        assert torch.allclose(compose(*pair).matrix, identity(5, (1, 1)).matrix.expand(5, 2, 3), atol=1e-4)
    assert inverse(geometry).source_size == (7, 9)


def test_the_strong_view_is_cut_out_of_the_weak_one():
    weak, strong = geometry_of(Op.TRANSLATE_X, 2), geometry_of(Op.ROTATE, 180)
    source = torch.arange(64.0).view(1, 8, 8)
    seen_weak, _ = warp(source, weak)
    seen_strong, _ = warp(source, strong)
    through, valid = warp(seen_weak, compose(inverse(weak), strong))
    assert torch.allclose(through[valid], seen_strong[valid])
    assert valid.sum() == 48


def test_warp_has_first_and_second_derivatives():
    maps = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    geometry = random_geometry(2, (4, 4))
    assert torch.autograd.gradcheck(lambda m: warp(m, geometry)[0], maps)
    assert torch.autograd.gradgradcheck(lambda m: warp(m, geometry)[0] ** 2, maps)


def test_bilinear_is_grid_samples():
    geometry = random_geometry(4, (10, 12))
    maps = torch.randn(4, 3, 5, 6)
    y, x = torch.meshgrid(torch.arange(5) + 0.5, torch.arange(6) + 0.5, indexing="ij")
    at = torch.stack((2 * x, 2 * y, torch.ones_like(x)), -1) @ geometry.matrix.mT[:, None]
    grid = at / torch.tensor([6.0, 5.0]) - 1
    expected = torch.nn.functional.grid_sample(maps, grid, padding_mode="border", align_corners=False)
    warped, valid = warp(maps, geometry)
    assert torch.allclose(warped, expected, atol=1e-5)
    assert torch.equal(valid, (grid.abs() < 1).all(-1))
