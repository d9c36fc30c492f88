import itertools
import math

import pytest
import torch
from torch import Tensor

from eke.losses.clustering import sinkhorn_codes, swapped_prediction


def slow_codes(scores: list[list[float]], epsilon: float, n_iterations: int) -> list[list[float]]:
    """The paper's Diag(u) exp(scores / epsilon) Diag(v): prototypes get 1/K each, images 1/N each; then times N."""
    N, K = len(scores), len(scores[0])
    q = [[math.exp(s / epsilon) for s in row] for row in scores]
    for _ in range(n_iterations):
        for k in range(K):
            total = sum(row[k] for row in q)
            for row in q:
                row[k] /= total * K
        for row in q:
            total = sum(row)
            row[:] = [value / (total * N) for value in row]
    return [[value * N for value in row] for row in q]


@pytest.mark.parametrize("n_iterations", [1, 3])
@pytest.mark.parametrize(("N", "K"), [(6, 3), (3, 5)])
def test_codes_equal_a_slow_reference(N: int, K: int, n_iterations: int) -> None:
    scores = torch.rand(N, K, dtype=torch.float64) * 2 - 1
    expected = torch.tensor(slow_codes(scores.tolist(), 0.05, n_iterations), dtype=torch.float64)
    torch.testing.assert_close(sinkhorn_codes(scores, 0.05, n_iterations), expected, rtol=0, atol=1e-9)


def test_rows_sum_to_one_and_columns_come_to_equal_shares() -> None:
    scores = torch.rand(12, 4, dtype=torch.float64) + torch.tensor([3.0, 0.0, 0.0, 0.0])  # all prefer the first
    shares = [sinkhorn_codes(scores, 0.5, n) for n in (1, 3, 200)]
    for codes in shares:
        torch.testing.assert_close(codes.sum(1), torch.ones(12, dtype=torch.float64), rtol=0, atol=1e-12)
    errors = [(codes.sum(0) - 12 / 4).abs().max().item() for codes in shares]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-9


def test_with_a_small_epsilon_images_are_dealt_out_as_the_scores_are_best() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.8, 0.1, 0.2], [0.7, 0.3, 0.65]], dtype=torch.float64)
    best = max(itertools.permutations(range(3)), key=lambda deal: sum(scores[b, k].item() for b, k in enumerate(deal)))
    assert scores.argmax(1).tolist() == [0, 0, 0] != list(best), "else even shares would prove nothing"
    codes = sinkhorn_codes(scores, 1e-3, 1000)  # exp(0.9 / 0.001) would be infinite
    torch.testing.assert_close(codes, torch.eye(3, dtype=torch.float64)[list(best)], rtol=0, atol=1e-3)


def test_with_a_large_epsilon_all_prototypes_get_the_same() -> None:
    codes = sinkhorn_codes(torch.rand(5, 4, dtype=torch.float64), 1e9, 1)
    torch.testing.assert_close(codes, torch.full((5, 4), 0.25, dtype=torch.float64), rtol=0, atol=1e-9)


def test_codes_are_targets_in_float32_without_gradient() -> None:
    scores = torch.randn(5, 4, requires_grad=True)
    assert not sinkhorn_codes(scores, 0.05, 3).requires_grad
    assert sinkhorn_codes(scores.bfloat16(), 0.05, 3).dtype == torch.float32


def draw() -> tuple[list[Tensor], list[Tensor]]:
    scores = [(torch.rand(5, 4, dtype=torch.float64) * 2 - 1).requires_grad_() for _ in range(2)]
    return scores, [sinkhorn_codes(each, 0.2, 3) for each in scores]


def test_swapped_prediction_equals_a_slow_reference() -> None:
    (scores_1, scores_2), (codes_1, codes_2) = draw()
    expected = torch.zeros((), dtype=torch.float64)
    for scores, codes in ((scores_1, codes_2), (scores_2, codes_1)):
        for b in range(5):
            total = sum((torch.exp(s / 0.1) for s in scores[b]), torch.zeros(()))
            for k in range(4):
                expected = expected - codes[b, k] * torch.log(torch.exp(scores[b, k] / 0.1) / total) / 5 / 2
    loss = swapped_prediction(scores_1, scores_2, codes_1, codes_2, 0.1)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    gradients = (torch.autograd.grad(each, (scores_1, scores_2)) for each in (loss, expected))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


def test_the_loss_is_zero_where_both_views_are_sure_of_the_same_prototype() -> None:
    codes = torch.eye(4, dtype=torch.float64)
    assert swapped_prediction(5 * codes, 5 * codes, codes, codes, 0.1).item() == pytest.approx(0, abs=1e-12)


def test_views_of_equal_scores_can_do_no_better_than_predict_the_codes() -> None:
    _, (codes, _) = draw()
    entropy = -(codes * codes.log()).sum(1).mean().item()
    right = 0.1 * codes.log()  # whose softmax at temperature 0.1 is the code
    assert swapped_prediction(right, right, codes, codes, 0.1).item() == pytest.approx(entropy)
    wrong = right + 0.02 * torch.randn_like(right)
    assert swapped_prediction(wrong, right, codes, codes, 0.1).item() > entropy
