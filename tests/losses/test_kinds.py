"""The three kinds of labels against loops over images and classes."""

import math

import pytest
import torch
from torch import Tensor

from eke.losses.kinds import IN_SHARES, ONE, YES_OR_NO, LabelKind

N, K = 7, 4


def drawn(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels of several classes (one image of none), and probabilities as targets."""
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(N, K, generator=draw, dtype=torch.float64)
    labels = (torch.rand(N, K, generator=draw) < 0.4).long()
    labels[2] = 0
    labels[3] = 1
    return logits, labels, torch.rand(N, K, generator=draw, dtype=torch.float64)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(z) for z in row]
    return [e / sum(exponentials) for e in exponentials]


def binary_loop(logits: Tensor, target: Tensor, weight: Tensor | None) -> float:
    total = 0.0
    for n in range(N):
        for c in range(K):
            p, y = sigmoid(float(logits[n, c])), float(target[n, c])
            w = 1.0 if weight is None else float(weight[n, c])
            total -= w * (y * math.log(p) + (1 - y) * math.log(1 - p))
    return total / (N * K)


def shares_loop(logits: Tensor, target: Tensor, weight: Tensor | None) -> float:
    total = 0.0
    for n in range(N):
        p, n_classes = softmax(logits[n].tolist()), float(target[n].sum())
        for c in range(K):
            w = 1.0 if weight is None else float(weight[n, c])
            total -= w * (float(target[n, c]) / n_classes if n_classes else 0.0) * math.log(p[c])
    return total / N


@pytest.mark.parametrize("kind", [YES_OR_NO, IN_SHARES], ids=lambda kind: kind.name)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_equals_a_loop(kind: LabelKind, weighted: bool, soft: bool) -> None:
    logits, labels, probs = drawn()
    weight = torch.rand(N, K, dtype=torch.float64) if weighted else None
    target = probs if soft else labels
    loop = binary_loop if kind is YES_OR_NO else shares_loop
    assert float(kind.cross_entropy(logits, target, weight)) == pytest.approx(loop(logits, target, weight), rel=1e-12)


def test_an_image_of_no_class_costs_shares_nothing_and_has_no_gradient() -> None:
    logits = torch.randn(1, K, requires_grad=True)
    loss = IN_SHARES.cross_entropy(logits, torch.zeros(1, K, dtype=torch.long))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_probabilities() -> None:
    logits, _, _ = drawn()
    for n in range(N):
        row = logits[n].tolist()
        assert YES_OR_NO.probabilities(logits)[n].tolist() == pytest.approx([sigmoid(z) for z in row])
        assert IN_SHARES.probabilities(logits)[n].tolist() == pytest.approx(softmax(row))
        assert ONE.probabilities(logits)[n].tolist() == pytest.approx(softmax(row))
    for kind in (ONE, YES_OR_NO, IN_SHARES):
        assert kind.probabilities(logits.bfloat16()).dtype == torch.float32


def test_pseudo_labels_of_each_class_by_itself() -> None:
    probs = torch.tensor([[0.97, 0.5, 0.04, 0.6]], dtype=torch.float64, requires_grad=True)
    label, mask = YES_OR_NO.confident_pseudo_label(torch.logit(probs), 0.95)
    assert label.tolist() == [[1, 1, 0, 1]]
    assert mask.tolist() == [[1, 0, 1, 0]], "a class is trusted for being absent, too"
    assert not mask.requires_grad


def test_pseudo_labels_of_shares_are_the_likeliest_class() -> None:
    logits = torch.tensor([[9.0, 0, 0, 0], [0.1, 0, 0, 0]])
    label, mask = IN_SHARES.confident_pseudo_label(logits, 0.95)
    assert label.tolist() == [[1, 0, 0, 0]] * 2
    assert mask.tolist() == [[1.0] * K, [0.0] * K]
    label, mask = ONE.confident_pseudo_label(logits, 0.95)
    assert label.tolist() == [0, 0]
    assert mask.tolist() == [1, 0]


def test_squared_error() -> None:
    logits, _, target = drawn()
    expected = sum((sigmoid(float(logits[n, c])) - float(target[n, c])) ** 2 for n in range(N) for c in range(K))
    assert float(YES_OR_NO.squared_error(logits, target)) == pytest.approx(expected / (N * K))


@pytest.mark.parametrize("kind", [YES_OR_NO, IN_SHARES], ids=lambda kind: kind.name)
def test_gradients(kind: LabelKind) -> None:
    logits, labels, _ = drawn()
    assert torch.autograd.gradcheck(lambda z: kind.cross_entropy(z, labels), logits.requires_grad_())


@pytest.mark.parametrize("kind", [YES_OR_NO, IN_SHARES], ids=lambda kind: kind.name)
@pytest.mark.parametrize("soft", [False, True])
def test_losses_of_logits_in_half_precision_are_in_single_precision(kind: LabelKind, soft: bool) -> None:
    logits, labels, probs = drawn()
    half, target = logits.bfloat16(), probs.bfloat16() if soft else labels
    loss = kind.cross_entropy(half, target)
    assert loss.dtype == torch.float32
    wanted = kind.cross_entropy(half.double(), target.double() if soft else target)
    assert float(loss) == pytest.approx(float(wanted), rel=1e-6)


def test_a_confidence_of_exactly_the_threshold_is_trusted() -> None:
    label, mask = YES_OR_NO.confident_pseudo_label(torch.zeros(1, K), 0.5)
    assert (label.tolist(), mask.tolist()) == ([[1] * K], [[1.0] * K])
    _, mask = ONE.confident_pseudo_label(torch.zeros(2, 4), 0.25)
    assert mask.tolist() == [1, 1]


@pytest.mark.parametrize("kind", [ONE, YES_OR_NO, IN_SHARES], ids=lambda kind: kind.name)
def test_a_guess_has_no_gradient(kind: LabelKind) -> None:
    logits, _, _ = drawn()
    label, confidence = kind.guess(kind.probabilities(logits.requires_grad_()))
    assert label.dtype == torch.int64
    assert not confidence.requires_grad
