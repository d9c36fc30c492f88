import math

import pytest
import torch

from eke.acquire.sampling import (
    class_balanced,
    draw_by_weight,
    first_of_largest,
    power_scores,
    seeded_order,
    softmax_scores,
    top_k,
)
from eke.acquire.scores import entropy, margin
from eke.errors import ConfigError

from .conftest import N, ids_of, random_probs

ORDER = seeded_order(ids_of(N), 0)


def test_order_belongs_to_seed_and_images() -> None:
    ids = ids_of(N)
    backwards = seeded_order(ids[::-1], 0)
    assert [ids[row] for row in ORDER] == [ids[::-1][row] for row in backwards]
    assert sorted(ORDER.tolist()) == list(range(N))
    assert seeded_order(ids, 1).tolist() != ORDER.tolist()


def test_top_k_is_a_sort_with_ties_by_second_score_and_then_by_order() -> None:
    scores, then = torch.arange(N) % 3, torch.arange(N) % 7
    place = {int(row): rank for rank, row in enumerate(ORDER)}
    expected = sorted(range(N), key=lambda row: (-int(scores[row]), -int(then[row]), place[row]))
    assert top_k(scores, N, ORDER, then).tolist() == expected
    assert top_k(scores, 5, ORDER).tolist() == sorted(range(N), key=lambda row: (-int(scores[row]), place[row]))[:5]


def test_the_first_of_the_largest() -> None:
    values = torch.tensor([1.0, 3.0, 3.0 + 1e-7, 2.0])
    assert first_of_largest(values, torch.tensor([3, 1, 2, 0]), 1e-5) == 1
    assert first_of_largest(values, torch.tensor([3, 2, 1, 0]), 1e-5) == 2


def test_a_weighted_draw_has_its_probabilities_and_never_draws_a_weight_of_0() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0])
    drawn = torch.bincount(
        torch.tensor([draw_by_weight(weights, torch.tensor([3, 2, 1, 0]), 0, step, "x") for step in range(2000)]),
        minlength=4,
    )
    assert drawn[0] == drawn[3] == 0
    assert float(drawn[2]) / 2000 == pytest.approx(0.75, abs=0.03)


def test_power_and_softmax_draw_with_the_probabilities_of_the_paper() -> None:
    scores, ids = torch.tensor([1.0, 2.0, 5.0]), ids_of(3)
    for keys, expected in (
        (lambda seed: power_scores(scores, ids, seed), scores / 8),
        (lambda seed: power_scores(scores, ids, seed, beta=2), scores**2 / 30),
        (lambda seed: softmax_scores(scores, ids, seed), scores.softmax(0)),
    ):
        first = torch.bincount(torch.tensor([int(keys(seed).argmax()) for seed in range(3000)]), minlength=3) / 3000
        torch.testing.assert_close(first, expected, rtol=0, atol=0.03)


def test_an_image_of_score_0_comes_last_and_a_negative_score_is_refused() -> None:
    keys = power_scores(torch.tensor([0.0, 1e-6, 0.5]), ids_of(3), 0)
    assert keys[0] == -math.inf
    assert not keys.isnan().any()
    assert top_k(keys, 3, torch.arange(3))[2] == 0
    with pytest.raises(ConfigError, match="below 0"):
        power_scores(torch.tensor([-0.1]), ["a"], 0)


@pytest.mark.parametrize("score", [entropy, margin])
@pytest.mark.parametrize("keys_of", [power_scores, softmax_scores])
def test_drawn_images_are_less_decided_than_the_pool(score, keys_of) -> None:  # type: ignore[no-untyped-def]
    """baal 2.1.0 draws sure images by margin, because margins are not reversed before the power."""
    probs = random_probs(2000)
    uncertainty = 1 - probs.amax(1)
    picked = top_k(keys_of(score(probs), ids_of(2000), 0), 300, torch.arange(2000))
    assert float(uncertainty[picked].mean()) > float(uncertainty.mean()) + 0.02


def test_balanced_picks_go_to_the_class_with_the_fewest_labels() -> None:
    probs = random_probs()
    scores, classes, counts = margin(probs), probs.argmax(1), [9, 0, 4, 30]
    rows = class_balanced(scores, classes, torch.tensor(counts), 60, ORDER).tolist()
    left = top_k(scores, N, ORDER).tolist()
    for row in rows:
        fewest = min(counts[int(classes[other])] for other in left)
        expected = next(other for other in left if counts[int(classes[other])] == fewest)
        assert row == expected
        counts[int(classes[row])] += 1
        left.remove(row)
    assert sorted(class_balanced(scores, classes, torch.zeros(4).long(), N, ORDER).tolist()) == list(range(N))
