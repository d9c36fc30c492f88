"""A plane on which embeddings can be looked at: principal components, or UMAP where it is installed."""

import warnings
from importlib import import_module
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_UMAP_NEIGHBORS = 15  # umap-learn's default
_UMAP_LEAST = 50  # points from which on neighborhoods of 15 say something


class Projection(NamedTuple):
    """Points on a plane, and how they came there."""

    points: NDArray[np.float64]
    """(n, 2)."""
    name: Literal["PCA", "UMAP"]
    explained: tuple[float, float] | None
    """Of PCA: share of the variance on each of the two axes, in [0, 1]."""


def project(embeddings: Tensor, seed: int = 0) -> Projection:
    """Project embeddings (n, D) by UMAP where the package umap-learn can be imported, else by PCA.

    Fewer than 50 points have no neighborhoods worth keeping: they get PCA.

    Args:
        embeddings: floats, one row per image, n >= 1.
        seed: of UMAP; PCA has none.
    """
    if len(embeddings) >= _UMAP_LEAST and (points := _umap(embeddings, seed)) is not None:
        return Projection(points, "UMAP", None)
    coordinates, explained = principal_components(embeddings)
    return Projection(coordinates.numpy(), "PCA", (float(explained[0]), float(explained[1])))


def principal_components(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Project centered rows (n, D) on the two directions along which they vary most.

    The sign of each axis is chosen so that its largest coordinate in absolute value is positive: another machine
    draws the same map.

    Args:
        embeddings: floats, n >= 1.

    Returns:
        Coordinates (n, 2) float64 on the CPU, and the share of the variance on each axis (2,), in [0, 1]; 0 along an
        axis on which nothing varies.
    """
    rows = embeddings.detach().cpu().double()
    u, s, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    variance = s.square()
    share = variance / variance.sum().clamp_min(torch.finfo(torch.float64).tiny)
    lacking = max(0, 2 - len(s))  # of a single row, or of embeddings of one number
    points, share = F.pad(u * s, (0, lacking))[:, :2], F.pad(share, (0, lacking))[:2]
    largest = points.gather(0, points.abs().argmax(0, keepdim=True))
    return points * torch.where(largest < 0, -1.0, 1.0), share


def _umap(embeddings: Tensor, seed: int) -> NDArray[np.float64] | None:
    with warnings.catch_warnings():
        # at import of what it could use besides, later that a seed costs it its threads
        warnings.simplefilter("ignore")
        try:
            kind: Any = import_module("umap").UMAP
        except (ImportError, AttributeError):  # not there, or another package of that name
            return None
        points = kind(n_neighbors=_UMAP_NEIGHBORS, random_state=seed, n_jobs=1).fit_transform(
            embeddings.detach().cpu().float().numpy()
        )
    return np.asarray(points, dtype=np.float64)
