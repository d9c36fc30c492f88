import math

import pytest
import torch

from eke.acquire.scores import STRATEGIES, entropy, random_scores

IDS = [f"{number:032x}" for number in range(4000)]


def test_entropy_is_the_sum_over_classes() -> None:
    probs = torch.rand(6, 5, dtype=torch.float64).softmax(1)
    expected = [-sum(p * math.log(p) for p in row) for row in probs.tolist()]
    torch.testing.assert_close(entropy(probs), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


def test_entropy_is_0_for_a_sure_prediction_and_largest_for_an_undecided_one() -> None:
    scores = entropy(torch.tensor([[0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]]))
    torch.testing.assert_close(scores, torch.tensor([0.0, math.log(3), math.log(2)]))


def test_random_scores_are_uniform_and_belong_to_the_image() -> None:
    scores = random_scores(IDS, seed=3)
    assert scores.dtype == torch.float64
    assert 0 <= scores.min() < 0.01
    assert 0.99 < scores.max() < 1
    assert float(scores.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(scores.std()) == pytest.approx(1 / math.sqrt(12), abs=0.01)
    assert len(scores.unique()) == len(IDS)
    assert torch.equal(random_scores(IDS[::-1], seed=3), scores.flip(0)), "another order, the same images"
    assert torch.equal(random_scores(IDS[7:9], seed=3), scores[7:9]), "another pool, the same images"


def test_another_seed_draws_others() -> None:
    a, b = random_scores(IDS, seed=0), random_scores(IDS, seed=1)
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.06


def test_strategies_score_what_their_names_say() -> None:
    probs = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    assert torch.equal(STRATEGIES["entropy"].score(probs, IDS[:2], 0), entropy(probs))
    assert torch.equal(STRATEGIES["random"].score(probs, IDS[:2], 5), random_scores(IDS[:2], 5))
    assert random_scores([], 0).shape == (0,)
