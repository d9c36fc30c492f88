import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eke.acquire import cold_start
from eke.acquire.clusters import k_means
from eke.acquire.cold_start import ball_radius, prob_cover, typiclust
from eke.acquire.sampling import seeded_order
from eke.errors import DataError

from .conftest import N, generator, ids_of, random_features

ORDER = seeded_order(ids_of(N), 0)
PLACE = {int(row): rank for rank, row in enumerate(ORDER)}


@pytest.fixture(autouse=True)
def blocks_that_do_not_divide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_start, "BLOCK", 64)


def blobs(n: int, k: int, seed: int, spread: float = 0.15) -> tuple[Tensor, Tensor]:
    blob = torch.randint(k, (n,), generator=generator(seed))
    return torch.eye(k)[blob] + spread * torch.randn(n, k, generator=generator(seed + 1)), blob


@pytest.mark.parametrize("n_labeled", [0, 9])
def test_typiclust_is_the_slow_one(n_labeled: int) -> None:
    features, labeled, k = random_features(), random_features(n_labeled, seed=9), 40
    rows, scores, sizes = typiclust(features, labeled, k, ORDER, 0)

    unit = F.normalize(torch.cat([features, labeled]), dim=1)
    cluster, _ = k_means(unit, k + n_labeled, torch.cat([ORDER, torch.arange(N, N + n_labeled)]), 0)
    groups = []
    for c in cluster.unique().tolist():
        own = [row for row in ORDER.tolist() if cluster[row] == c]
        if not own:
            continue
        typical = {}
        for row in own:
            distances = sorted(float((unit[row] - unit[other]).double().norm()) for other in own if other != row)
            near = distances[: min(20, max(1, len(own) // 2))]
            typical[row] = 1 / ((sum(near) / len(near) if near else 0) + 1e-5)
        labels = sum(int(cluster[N + at]) == c for at in range(n_labeled))
        groups.append(
            ((len(own) < 5, labels, -len(own), PLACE[own[0]]), sorted(own, key=lambda r: -typical[r]), typical)
        )
    groups.sort(key=lambda group: group[0])
    expected = []
    for turn in range(N):
        expected += [
            (group[turn], typical[group[turn]], len(group)) for _, group, typical in groups if turn < len(group)
        ]
    assert rows.tolist() == [row for row, _, _ in expected[:k]]
    torch.testing.assert_close(scores, torch.tensor([score for _, score, _ in expected[:k]]), rtol=1e-3, atol=0)
    assert sizes.tolist() == [size for _, _, size in expected[:k]]


def test_typiclust_asks_first_where_nothing_is_labeled() -> None:
    features, blob = blobs(N, 4, 0)
    labeled = features[blob == 2][:3] + 0.01
    rows, _, _ = typiclust(features[:, :], labeled, 1, ORDER, 0)
    assert blob[rows[0]] != 2


def dense_cover(features: Tensor, labeled: Tensor, k: int, radius: float) -> tuple[list[int], list[int]]:
    unit = F.normalize(features.double(), dim=1)
    edges = torch.cdist(unit, unit) < radius
    open_ = torch.ones(len(unit), dtype=torch.bool)
    if len(labeled):
        open_ &= ~(torch.cdist(unit, F.normalize(labeled.double(), dim=1)) < radius).any(1)
    rows: list[int] = []
    gains: list[int] = []
    for _ in range(k):
        degrees = (edges & open_).sum(1)
        left = [row for row in ORDER.tolist() if row not in rows]
        best = max(left, key=lambda row: int(degrees[row]))
        rows.append(best)
        gains.append(int(degrees[best]))
        open_ &= ~edges[best]
    return rows, gains


@pytest.mark.parametrize("n_labeled", [0, 12])
@pytest.mark.parametrize("radius", [0.25, 0.6])
def test_prob_cover_is_the_dense_one_to_the_last_image(n_labeled: int, radius: float) -> None:
    """The authors' graph leaves out the last N % 500 rows, which then are never chosen."""
    features, labeled = random_features(), random_features(n_labeled, seed=9)
    rows, gains = prob_cover(features, labeled, N, radius, ORDER)
    expected = dense_cover(features, labeled, N, radius)
    assert gains.tolist() == expected[1]
    assert rows.tolist() == expected[0]


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_radius_is_the_largest_with_pure_balls(seed: int) -> None:
    features, _ = blobs(N, 4, seed, spread=0.3)
    radius = ball_radius(features, 4, ORDER, 0)
    unit = F.normalize(features.double(), dim=1)
    cluster, _ = k_means(unit.float(), 4, ORDER, 0)
    distances = torch.cdist(unit, unit)

    def purity(r: float) -> float:
        return sum(bool((cluster[distances[row] < r] == cluster[row]).all()) for row in range(N)) / N

    assert purity(radius) >= 0.95
    assert purity(radius * 1.001) < 0.95


def test_graphs_that_are_too_large_are_refused_and_large_pools_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    features = random_features()
    monkeypatch.setattr(cold_start, "MAX_ROWS", 50)
    rows, gains = prob_cover(features, features[:0], N, 0.5, ORDER)
    kept = sorted(ORDER[:50].tolist())
    assert {row for row, gain in zip(rows.tolist(), gains.tolist(), strict=True) if gain} <= set(kept)
    assert sorted(rows.tolist()) == list(range(N))
    monkeypatch.setattr(cold_start, "MAX_EDGES", 100)
    with pytest.raises(DataError, match=r"radius 1.* smaller radius"):
        prob_cover(features, features[:0], 5, 1.0, ORDER)
