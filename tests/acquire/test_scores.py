import math

import pytest
import torch

from eke.acquire.passes import Passes
from eke.acquire.scores import BLOCK, entropy, least_confidence, margin, of_several, random_scores
from eke.errors import DataError

from .conftest import passes_of, random_draws, random_probs

IDS = [f"{number:032x}" for number in range(4000)]


def test_entropy_is_the_sum_over_classes() -> None:
    probs = torch.rand(6, 5, dtype=torch.float64).softmax(1)
    expected = [-sum(p * math.log(p) for p in row) for row in probs.tolist()]
    torch.testing.assert_close(entropy(probs), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


def test_entropy_is_0_for_a_sure_prediction_and_largest_for_an_undecided_one() -> None:
    scores = entropy(torch.tensor([[0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]]))
    torch.testing.assert_close(scores, torch.tensor([0.0, math.log(3), math.log(2)]))


def test_least_confidence_and_margin_are_those_of_sorted_probabilities() -> None:
    probs = random_probs()
    ranked = [sorted(row, reverse=True) for row in probs.tolist()]
    torch.testing.assert_close(least_confidence(probs), torch.tensor([1 - row[0] for row in ranked]))
    torch.testing.assert_close(margin(probs), torch.tensor([1 - (row[0] - row[1]) for row in ranked]))
    assert margin(torch.tensor([[0.0, 1.0], [0.5, 0.5]])).tolist() == [0, 1]


def test_scores_of_half_precision_are_float32_and_blocks_are_seamless() -> None:
    probs = random_probs(BLOCK + 3)
    for score in (entropy, margin, least_confidence):
        assert score(probs.half()).dtype == torch.float32
        torch.testing.assert_close(score(probs), torch.cat([score(probs[:5000]), score(probs[5000:])]))
        assert score(probs[:0]).shape == (0,)


def test_of_several_labels_each_class_is_a_question_of_its_own() -> None:
    probs = torch.tensor([[0.5, 0.5, 1.0], [0.9, 0.0, 0.0]])
    sure = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    torch.testing.assert_close(of_several(entropy, probs), torch.tensor([2 * math.log(2) / 3, sure / 3]))


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
    assert random_scores([], 0).shape == (0,)


def test_another_seed_draws_others() -> None:
    a, b = random_scores(IDS, seed=0), random_scores(IDS, seed=1)
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.06


def test_statistics_of_passes_are_those_of_all_passes_at_once() -> None:
    draws = random_draws()
    passes, p = passes_of(draws), draws.double()
    mean = p.mean(1)
    predictive, expected = -(mean * mean.log()).sum(1), -(p * p.log()).sum(2).mean(1)
    votes = [max(row.count(c) for c in set(row)) for row in p.argmax(2).tolist()]
    oracle = {
        "predictive_entropy": predictive,
        "expected_entropy": expected,
        "bald": predictive - expected,
        "varratio_mc": torch.tensor([1 - v / p.shape[1] for v in votes]),
        "mean_std": p.std(1, correction=0).mean(1),
    }
    for name, values in oracle.items():
        torch.testing.assert_close(getattr(passes, name)(), values.float(), rtol=1e-5, atol=1e-6, msg=name)


def test_passes_that_agree_have_nothing_to_tell_and_those_that_contradict_have_much() -> None:
    agree = passes_of(random_probs(50)[:, None].expand(-1, 30, -1))
    assert float(agree.bald().max()) < 1e-6
    assert float(agree.bald().min()) >= 0
    assert float(agree.mean_std().max()) < 1e-6, "a sum of squares leaves 3e-4 of rounding here"
    assert agree.varratio_mc().max() == 0
    contradict = passes_of(torch.eye(2).repeat(4, 1)[None])
    assert float(contradict.bald()) == pytest.approx(math.log(2))
    assert float(contradict.varratio_mc()) == 0.5
    assert float(contradict.mean_std()) == pytest.approx(0.5)
    assert float(contradict.expected_entropy()) == 0, "zeros do not become NaN"


def test_rows_of_passes_and_wrong_shapes() -> None:
    draws = random_draws()
    part = passes_of(draws).rows(torch.tensor([5, 2]))
    torch.testing.assert_close(part.bald(), passes_of(draws[[5, 2]]).bald())
    assert torch.equal(part.varratio_mc(), passes_of(draws[[5, 2]]).varratio_mc())
    with pytest.raises(DataError, match=r"\(3, 2\).*\(2, 2\)"):
        Passes(3, 2).add(torch.full((2, 2), 0.5))
