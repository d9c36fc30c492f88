"""Each selector beside a slow one that holds everything in memory, in float64."""

import pytest
import torch
from torch import Tensor

from eke.acquire import clusters, diversity
from eke.acquire.clusters import cluster_margin, k_means, medoids
from eke.acquire.diversity import badge, distances_to_nearest, k_center
from eke.acquire.sampling import draw_by_weight, seeded_order, top_k
from eke.acquire.scores import margin

from .conftest import K, N, generator, ids_of, random_features, random_probs

ORDER = seeded_order(ids_of(N), 0)


@pytest.fixture(autouse=True)
def blocks_that_do_not_divide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "BLOCK", 64)
    monkeypatch.setattr(clusters, "BLOCK", 64)


def dense_k_center(features: Tensor, labeled: Tensor, k: int) -> list[int]:
    everything = torch.cdist(features.double(), features.double())
    nearest = torch.cdist(features.double(), labeled.double()).amin(1) if len(labeled) else None
    rows: list[int] = []
    for _ in range(k):
        rows.append(int(ORDER[0]) if nearest is None else int(nearest.argmax()))
        own = everything[rows[-1]]
        nearest = own.clone() if nearest is None else torch.minimum(nearest, own)
        nearest[rows] = -1
    return rows


@pytest.mark.parametrize("n_labeled", [0, 1, 70])
def test_k_center_is_the_dense_one(n_labeled: int) -> None:
    features, labeled = random_features(), random_features(n_labeled, seed=9)
    rows, distances = k_center(features, labeled, N, ORDER)
    assert rows.tolist() == dense_k_center(features, labeled, N)
    assert distances.tolist() == sorted(distances.tolist(), reverse=True)
    chosen = torch.cat([labeled, features[rows[:10]]])
    expected = float(torch.cdist(features[rows[10:11]], chosen).min())
    assert float(distances[10]) == pytest.approx(expected, rel=1e-4)


def test_distances_in_blocks_are_those_of_all_pairs_and_0_to_a_copy() -> None:
    features = 100 + random_features()
    others = torch.cat([random_features(30, seed=9) + 100, features[7:8]])
    expected = torch.cdist(features.double(), others.double()).amin(1).square()
    torch.testing.assert_close(distances_to_nearest(features, others).double(), expected, rtol=0, atol=0.1)
    assert distances_to_nearest(features, others)[7] == 0
    assert distances_to_nearest(features, features[:0]).isinf().all()
    assert distances_to_nearest(features.half(), others.half()).dtype == torch.float32


def dense_badge(probs: Tensor, features: Tensor, k: int, seed: int) -> list[int]:
    """K-means++ on the gradient embeddings themselves: N x K D numbers."""
    error = probs.double() - torch.nn.functional.one_hot(probs.argmax(1), probs.shape[1])
    g = torch.einsum("nk,nd->nkd", error, features.double()).flatten(1)
    rows = [int(g.norm(dim=1).argmax())]
    while len(rows) < k:
        nearest = torch.cdist(g, g[rows]).amin(1).square()
        nearest[rows] = 0
        rows.append(draw_by_weight(nearest, ORDER, seed, len(rows), "badge"))
    return rows


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_badge_without_gradient_embeddings_is_badge_with_them(seed: int) -> None:
    probs, features = random_probs(), random_features()
    rows, lengths = badge(probs, features, 100, ORDER, seed)
    assert rows.tolist() == dense_badge(probs, features, 100, seed)
    error = probs - torch.nn.functional.one_hot(probs.argmax(1), K)
    torch.testing.assert_close(lengths, (error.norm(dim=1) * features.norm(dim=1))[rows])


def test_badge_of_sure_predictions_draws_the_undecided_and_one_sure_image_first_and_then_any() -> None:
    probs = torch.nn.functional.one_hot(torch.arange(N) % K, K).float()
    undecided = [3, 50, 171]
    probs[undecided] = 1 / K
    rows, lengths = badge(probs, random_features(), N, ORDER, 0)
    assert set(undecided) < set(rows[:4].tolist()), "the gradients of all sure images are one point, 0"
    assert sorted(rows.tolist()) == list(range(N))
    assert lengths[4:].max() == 0
    assert not lengths.isnan().any()


def test_badge_of_half_precision_chooses_without_overflow() -> None:
    rows, lengths = badge(random_probs().half(), 300 * random_features().half(), 50, ORDER, 0)
    assert len(set(rows.tolist())) == 50
    assert lengths.isfinite().all()


def test_copies_of_a_chosen_image_come_after_all_that_differ() -> None:
    features = (50 + random_features(20)).repeat(4, 1)
    probs = random_probs(20).repeat(4, 1)
    order = seeded_order(ids_of(80), 0)
    centers, distances = k_center(features, features[:0], 80, order)
    assert distances[19] > 0.1
    assert distances[20:].max() == 0, "a copy is not at a distance of rounding"
    for rows in (
        centers,
        badge(probs, features, 80, order, 0)[0],
        medoids(features, 20, order, 0)[0],
    ):
        assert len({int(row) % 20 for row in rows[:20]}) == 20
        assert len(set(rows.tolist())) == len(rows)


def three_blobs(sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    centers = 40 * torch.eye(len(sizes))
    blob = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return centers[blob] + torch.randn(len(blob), len(sizes), generator=generator(7)), blob


def test_k_means_finds_blobs_and_is_a_fixed_point() -> None:
    features, blob = three_blobs((100, 60, 43))
    cluster, centers = k_means(features, 3, ORDER, 0)
    assert {(int(a), int(b)) for a, b in zip(cluster, blob, strict=True)}.__len__() == 3
    for c in range(3):
        torch.testing.assert_close(centers[c], features[cluster == c].mean(0))
    features = random_features()
    cluster, centers = k_means(features, 12, ORDER, 0)
    assert torch.equal(cluster, torch.cdist(features, centers).argmin(1))


def test_a_large_pool_is_fitted_on_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "FIT_ROWS", 30)
    monkeypatch.setattr(clusters, "FIT_ROWS_PER_CLUSTER", 2)
    features, blob = three_blobs((100, 60, 43))
    cluster, centers = k_means(features, 3, ORDER, 0)
    assert len(cluster) == N
    assert torch.equal(cluster, torch.cdist(features, centers).argmin(1))
    assert len({(int(a), int(b)) for a, b in zip(cluster, blob, strict=True)}) == 3


def test_medoids_are_the_middles_of_clusters_the_largest_first() -> None:
    features, blob = three_blobs((60, 100, 43))
    rows, sizes = medoids(features, 3, ORDER, 0)
    assert sizes.tolist() == [100, 60, 43]
    for row, size in zip(rows.tolist(), sizes.tolist(), strict=True):
        own = features[blob == blob[row]]
        assert len(own) == size
        assert float((features[row] - own.mean(0)).norm()) == pytest.approx(
            float((own - own.mean(0)).norm(dim=1).min()), rel=1e-4
        )


def test_cluster_margin_takes_from_each_cluster_of_the_shortlist_in_turn() -> None:
    margins, features, k = margin(random_probs()), random_features(), 8
    rows = cluster_margin(margins, features, k, ORDER, 0).tolist()
    place = {int(row): rank for rank, row in enumerate(ORDER)}
    short = sorted(top_k(margins, 10 * k, ORDER).tolist(), key=lambda row: place[row])
    cluster = k_means(features[short], k, torch.arange(len(short)), 0)[0].tolist()
    groups = [[row for row, c in zip(short, cluster, strict=True) if c == wanted] for wanted in set(cluster)]
    groups.sort(key=lambda rows: (len(rows), place[rows[0]]))
    expected: list[int] = []
    while len(expected) < k:
        expected += [group.pop(0) for group in groups if group]
    assert rows == expected[:k]
