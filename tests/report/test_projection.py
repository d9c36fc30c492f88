import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from eke.report.projection import principal_components, project


def test_components_are_those_of_the_covariance():
    rows = torch.randn(50, 6, dtype=torch.float64) * torch.tensor([5, 3, 1, 1, 0.5, 0.1], dtype=torch.float64)
    points, share = principal_components(rows)
    mean = [sum(float(row[d]) for row in rows) / 50 for d in range(6)]
    covariance = np.array(
        [[sum(float((r[a] - mean[a]) * (r[b] - mean[b])) for r in rows) / 50 for b in range(6)] for a in range(6)]
    )
    values, vectors = np.linalg.eigh(covariance)
    for axis in range(2):
        expected = (rows.numpy() - np.array(mean)) @ vectors[:, -1 - axis]
        expected *= np.sign(expected[np.abs(expected).argmax()])
        np.testing.assert_allclose(points[:, axis].numpy(), expected, atol=1e-9)
        assert float(share[axis]) == pytest.approx(values[-1 - axis] / values.sum(), abs=1e-9)


def test_the_sign_of_an_axis_does_not_depend_on_the_embeddings_sign():
    rows = torch.randn(30, 4, dtype=torch.float64)
    skewed = rows.abs() ** 3
    points, _ = principal_components(skewed)
    for axis in range(2):
        assert points[points[:, axis].abs().argmax(), axis] > 0


@pytest.mark.parametrize("rows", [torch.ones(1, 5), torch.ones(7, 5), torch.arange(4.0)[:, None]])
def test_where_there_are_no_two_directions_the_rest_is_zero(rows):
    points, share = principal_components(rows)
    assert points.shape == (len(rows), 2)
    assert share.shape == (2,)
    assert points.isfinite().all()
    assert (points[:, 1] == 0).all()
    assert share[1] == 0


def test_without_umap_the_map_is_pca(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)  # then importing it is an ImportError
    rows = torch.randn(60, 8)
    projection = project(rows)
    assert projection.name == "PCA"
    np.testing.assert_array_equal(projection.points, principal_components(rows)[0].numpy())
    assert sum(projection.explained) < 1


@pytest.mark.slow  # numba compiles it for half a minute
def test_umap_keeps_clusters_apart_and_is_the_same_again():
    if find_spec("umap") is None:
        pytest.skip("the package umap-learn is not installed")
    labels = np.arange(120) % 3
    rows = torch.randn(120, 10) + 20 * torch.eye(10)[labels]
    projection = project(rows, seed=1)
    assert projection.name == "UMAP"
    assert projection.explained is None
    assert projection.points.shape == (120, 2)
    distance = np.linalg.norm(projection.points[:, None] - projection.points, axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (labels[distance.argmin(1)] == labels).all()
    np.testing.assert_array_equal(projection.points, project(rows, seed=1).points)
    assert project(rows[:20]).name == "PCA", "20 points have no neighborhoods of 15"
