import math

import pytest
import torch
from torch import Tensor

from eke.losses.classification import (
    cross_entropy,
    cross_entropy_of_kept,
    kl_divergence,
    log_probabilities,
    probabilities,
    squared_error,
)


def softmax(row: Tensor) -> list[float]:
    exponentials = [math.exp(v) for v in row.tolist()]
    return [e / sum(exponentials) for e in exponentials]


def draw(n: int = 5, k: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    logits = torch.randn(n, k, dtype=torch.float64)
    target = torch.randint(k, (n,))
    target_probs = torch.rand(n, k, dtype=torch.float64).pow(3)
    target_probs[0] = torch.eye(k)[0]  # zeros among the targets
    target_probs /= target_probs.sum(1, keepdim=True)
    weight = torch.rand(n, dtype=torch.float64)
    weight[-1] = 0
    return logits, target, target_probs, weight


@pytest.mark.parametrize(("n", "k"), [(5, 4), (1, 2)])
def test_cross_entropy_equals_a_double_loop(n: int, k: int) -> None:
    logits, target, target_probs, weight = draw(n, k)
    hard = soft = hard_weighted = soft_weighted = 0.0
    for i in range(n):
        p = softmax(logits[i])
        one = -math.log(p[target[i]])
        many = -sum(target_probs[i, c].item() * math.log(p[c]) for c in range(k))
        hard, soft = hard + one / n, soft + many / n
        hard_weighted += weight[i].item() * one / n
        soft_weighted += weight[i].item() * many / n
    assert cross_entropy(logits, target).item() == pytest.approx(hard, abs=1e-12)
    assert cross_entropy(logits, target_probs).item() == pytest.approx(soft, abs=1e-12)
    assert cross_entropy(logits, target, weight).item() == pytest.approx(hard_weighted, abs=1e-12)
    assert cross_entropy(logits, target_probs, weight).item() == pytest.approx(soft_weighted, abs=1e-12)


def test_masked_images_stay_in_the_denominator() -> None:
    logits, target, _, _ = draw(4)
    half = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    assert cross_entropy(logits, target, half).item() == pytest.approx(cross_entropy(logits[:2], target[:2]).item() / 2)


def test_cross_entropy_of_kept_divides_by_the_number_kept() -> None:
    logits, target, _, _ = draw()
    keep = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    total = sum(-math.log(softmax(logits[i])[target[i]]) for i in (0, 2))
    assert cross_entropy_of_kept(logits, target, keep).item() == pytest.approx(total / 2, abs=1e-12)
    assert cross_entropy_of_kept(logits, target, torch.zeros_like(keep)).item() == 0


def test_squared_error_equals_a_double_loop() -> None:
    logits, _, target_probs, _ = draw()
    total = 0.0
    for i in range(5):
        p = softmax(logits[i])
        total += sum((p[c] - target_probs[i, c].item()) ** 2 for c in range(4))
    assert squared_error(logits, target_probs).item() == pytest.approx(total / 20, abs=1e-12)


def test_kl_divergence_equals_a_double_loop() -> None:
    logits, _, target_probs, weight = draw()
    plain = weighted = 0.0
    for i in range(5):
        p = softmax(logits[i])
        row = 0.0
        for c in range(4):
            q = target_probs[i, c].item()
            row += q * (math.log(q) - math.log(p[c])) if q > 0 else 0.0
        plain, weighted = plain + row / 5, weighted + weight[i].item() * row / 5
    assert kl_divergence(logits, target_probs).item() == pytest.approx(plain, abs=1e-12)
    assert kl_divergence(logits, target_probs, weight).item() == pytest.approx(weighted, abs=1e-12)
    assert kl_divergence(logits, probabilities(logits)).item() == pytest.approx(0, abs=1e-12)


def test_kl_divergence_has_a_finite_gradient_at_one_hot_targets() -> None:
    logits = torch.tensor([[60.0, -60.0]], requires_grad=True)
    kl_divergence(logits, torch.tensor([[0.0, 1.0]])).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_probabilities_of_half_precision_logits_are_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(3, 4).to(dtype)
    assert probabilities(logits).dtype == log_probabilities(logits).dtype == torch.float32
    assert cross_entropy(logits, torch.tensor([0, 1, 2])).dtype == torch.float32


def test_losses_do_not_depend_on_the_order_of_images() -> None:
    logits, target, target_probs, weight = draw()
    order = torch.tensor([3, 1, 4, 0, 2])
    for loss, goal in ((cross_entropy, target), (kl_divergence, target_probs)):
        assert loss(logits, goal, weight).item() == pytest.approx(
            loss(logits[order], goal[order], weight[order]).item()
        )
