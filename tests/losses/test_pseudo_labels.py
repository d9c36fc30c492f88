import math

import pytest
import torch

from eke.losses.classification import probabilities
from eke.losses.mixing import mixup
from eke.losses.pseudo_labels import align_distribution, confident_pseudo_label, guess, one_hot, sharpen
from eke.losses.ramps import linear_ramp


def test_confident_pseudo_label_equals_a_loop() -> None:
    logits = 2 * torch.randn(50, 3, dtype=torch.float64)
    label, mask = confident_pseudo_label(logits, 0.8)
    for i in range(50):
        exponentials = [math.exp(v) for v in logits[i].tolist()]
        best = max(range(3), key=lambda c: exponentials[c])
        assert label[i] == best
        assert mask[i] == float(exponentials[best] / sum(exponentials) >= 0.8)
    assert 0 < mask.mean() < 1


def test_a_threshold_that_is_exactly_reached_counts() -> None:
    logits = torch.zeros(1, 2)
    assert confident_pseudo_label(logits, 0.5)[1].item() == 1


def test_the_threshold_of_the_predicted_class_counts() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # confidence 0.73 each
    assert confident_pseudo_label(logits, torch.tensor([0.9, 0.6]))[1].tolist() == [0, 1]


def test_targets_carry_no_gradient() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    probs = probabilities(logits)
    made = [*confident_pseudo_label(logits, 0.1), *guess(probs), sharpen(probs, 0.5)]
    made.append(align_distribution(probs, torch.full((3,), 1 / 3), 1.0))
    assert not any(tensor.requires_grad for tensor in made)


@pytest.mark.parametrize("temperature", [0.4, 0.5, 1.0])
def test_sharpen_equals_a_double_loop_and_the_softmax_of_scaled_logits(temperature: float) -> None:
    logits = torch.randn(6, 4, dtype=torch.float64)
    probs = probabilities(logits)
    sharp = sharpen(probs, temperature)
    for i in range(6):
        powers = [probs[i, c].item() ** (1 / temperature) for c in range(4)]
        for c in range(4):
            assert sharp[i, c].item() == pytest.approx(powers[c] / sum(powers), abs=1e-12)
    torch.testing.assert_close(sharp, probabilities(logits / temperature))


def test_sharpen_is_finite_at_any_temperature() -> None:
    sharp = sharpen(torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2]]), 1e-3)
    torch.testing.assert_close(sharp, torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))


def test_align_distribution_equals_a_double_loop() -> None:
    probs = probabilities(torch.randn(6, 3, dtype=torch.float64))
    mean = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    target = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    aligned = align_distribution(probs, mean, target)
    for i in range(6):
        scaled = [probs[i, c].item() * (target[c].item() + 1e-6) / (mean[c].item() + 1e-6) for c in range(3)]
        for c in range(3):
            assert aligned[i, c].item() == pytest.approx(scaled[c] / sum(scaled), abs=1e-12)


def test_align_distribution_survives_a_class_that_is_never_predicted() -> None:
    aligned = align_distribution(torch.tensor([[1.0, 0.0]]), torch.tensor([1.0, 0.0]), 0.5)
    torch.testing.assert_close(aligned, torch.tensor([[1.0, 0.0]]))


def test_one_hot() -> None:
    assert one_hot(torch.tensor([2, 0]), 3, torch.float64).tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (3, 5)])
def test_mixup_equals_a_loop(shape: tuple[int, ...]) -> None:
    x, partner = torch.randn(shape), torch.randn(shape)
    share = torch.tensor([1.0, 0.25, 0.6], dtype=torch.float64)
    mixed = mixup(x, partner, share)
    assert mixed.dtype == x.dtype
    for i in range(3):
        torch.testing.assert_close(mixed[i], share[i].item() * x[i] + (1 - share[i].item()) * partner[i])


def test_linear_ramp() -> None:
    assert [linear_ramp(step, 4) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert linear_ramp(0, 0) == 1
