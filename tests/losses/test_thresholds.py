import math

import pytest
import torch
from torch import Tensor

from eke.losses.classification import probabilities
from eke.losses.thresholds import (
    fairness,
    flexible_thresholds,
    latest_labels,
    self_adaptive_thresholds,
    truncated_gaussian,
)


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("n_selected", [0, 3, 30])
def test_flexible_thresholds_equal_a_loop(warmup: bool, n_selected: int) -> None:
    selected = torch.full((30,), -1)
    selected[torch.randperm(30)[:n_selected]] = torch.randint(4, (n_selected,))
    thresholds = flexible_thresholds(selected, 4, 0.95, warmup)
    sigma = [sum(1 for label in selected.tolist() if label == c) for c in range(4)]
    most = max(*sigma, 30 - sum(sigma)) if warmup else max(sigma)
    for c in range(4):
        beta = sigma[c] / max(1, most)
        assert thresholds[c].item() == pytest.approx(0.95 * beta / (2 - beta), abs=1e-6)


def test_latest_labels_keep_what_is_not_confident_and_let_the_later_place_win() -> None:
    memory = torch.tensor([5, 5, 5, -1])
    index = torch.tensor([0, 1, 0, 3, 3, 1])
    label = torch.tensor([1, 2, 3, 4, 0, 4])
    confident = torch.tensor([True, False, True, True, False, False])
    assert latest_labels(memory, index, label, confident).tolist() == [3, 5, 5, 4]
    assert memory.tolist() == [5, 5, 5, -1]


def test_self_adaptive_thresholds_equal_a_loop() -> None:
    mean_probs = [0.5, 0.3, 0.2]
    thresholds = self_adaptive_thresholds(torch.tensor(0.8), torch.tensor(mean_probs))
    assert thresholds.tolist() == pytest.approx([0.8 * p / 0.5 for p in mean_probs])


def slow_fairness(logits: Tensor, mask: Tensor, mean_probs: Tensor, label_rates: Tensor) -> float:
    K = logits.shape[1]
    kept = [probabilities(row) for row, trusted in zip(logits, mask.tolist(), strict=True) if trusted]
    if not kept:
        return 0.0
    p_now = [sum(row[c].item() for row in kept) / len(kept) for c in range(K)]
    h_now = [sum(1 for row in kept if row.argmax() == c) / len(kept) for c in range(K)]
    a = [(mean_probs[c] / label_rates[c]).item() if label_rates[c] > 0 else 0.0 for c in range(K)]
    b = [p_now[c] / h_now[c] if h_now[c] > 0 else 0.0 for c in range(K)]
    return sum(a[c] / sum(a) * math.log(b[c] / sum(b) + 1e-12) for c in range(K))


@pytest.mark.parametrize("trusted", [[1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 1], [0, 1, 0, 0, 0, 0], [0] * 6])
def test_fairness_equals_a_loop(trusted: list[int]) -> None:
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor(trusted, dtype=torch.float64)
    mean_probs = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    label_rates = torch.tensor([0.6, 0.4, 0.0], dtype=torch.float64)
    loss = fairness(logits, mask, mean_probs, label_rates)
    assert loss.item() == pytest.approx(slow_fairness(logits, mask, mean_probs, label_rates), abs=1e-10)
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[mask == 0] == 0).all()
    several_classes = len({int(row.argmax()) for row, t in zip(logits, trusted, strict=True) if t}) > 1
    assert bool(logits.grad.abs().sum() > 0) == several_classes  # of one class alone, b is one-hot


@pytest.mark.parametrize("n_sigma", [1.0, 2.0])
def test_truncated_gaussian_equals_a_loop(n_sigma: float) -> None:
    confidence = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    mean, variance = torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.04, dtype=torch.float64)
    weights = truncated_gaussian(confidence, mean, variance, n_sigma)
    for c, w in zip(confidence.tolist(), weights.tolist(), strict=True):
        sigma = 0.2 / n_sigma
        assert w == pytest.approx(1.0 if c >= 0.6 else math.exp(-((c - 0.6) ** 2) / (2 * sigma**2)), abs=1e-12)
