"""Graphs against loops over pairs, written from the papers' formulas."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from eke.losses.graph import (
    aggregated,
    degrees,
    graph_contrast,
    pseudo_label_graph,
    similarity_logits,
    smoothed_probs,
    unfolded,
)
from eke.losses.similarity import unit_length

N, Q, D, K = 4, 7, 5, 3


def embeddings(n: int) -> Tensor:
    return unit_length(torch.randn(n, D, dtype=torch.float64))


def distributions(n: int) -> Tensor:
    return torch.softmax(2 * torch.randn(n, K, dtype=torch.float64), 1)


def dot(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def nearness(z: Tensor, keys: Tensor, temperature: float) -> list[float]:
    exponentials = [math.exp(dot(z, key) / temperature) for key in keys]
    return [e / sum(exponentials) for e in exponentials]


@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
def test_smoothed_probs_equal_a_loop_over_the_memory(temperature: float) -> None:
    probs, z, memory, memory_probs = distributions(N), embeddings(N), embeddings(Q), distributions(Q)
    smoothed = smoothed_probs(probs, z, memory, memory_probs, 0.9, temperature)
    for b in range(N):
        a = nearness(z[b], memory, temperature)
        for c in range(K):
            expected = 0.9 * probs[b, c].item() + 0.1 * sum(a[k] * memory_probs[k, c].item() for k in range(Q))
            assert smoothed[b, c].item() == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(smoothed.sum(1), torch.ones(N, dtype=torch.float64))


def objective(
    optimizer: torch.optim.Optimizer, q: Tensor, p: Tensor, memory_probs: Tensor, a: list[float], alpha: float
) -> Tensor:
    """J(q) of the paper, and its gradient."""
    optimizer.zero_grad()
    pulls = sum(a[k] * (q - memory_probs[k]).square().sum() for k in range(Q))
    value: Tensor = (1 - alpha) * pulls + alpha * (q - p).square().sum()
    value.backward()
    return value


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.9])
def test_smoothed_probs_minimize_the_quadratic_of_the_paper(alpha: float) -> None:
    probs, z, memory, memory_probs = distributions(N), embeddings(N), embeddings(Q), distributions(Q)
    smoothed = smoothed_probs(probs, z, memory, memory_probs, alpha, 0.3)
    for b in range(N):
        a = nearness(z[b], memory, 0.3)
        q = torch.zeros(K, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([q], max_iter=50, line_search_fn="strong_wolfe", tolerance_grad=1e-12)
        optimizer.step(partial(objective, optimizer, q, probs[b], memory_probs, a, alpha))
        torch.testing.assert_close(smoothed[b], q.detach(), rtol=0, atol=1e-9)


def test_the_network_alone_decides_at_alpha_1() -> None:
    probs = distributions(N)
    assert smoothed_probs(probs, embeddings(N), embeddings(Q), distributions(Q), 1.0, 0.2).equal(probs)


def test_an_empty_memory_does_no_harm_at_alpha_1() -> None:
    probs, nothing = distributions(N), torch.zeros(Q, D, dtype=torch.float64)
    empty = torch.zeros(Q, K, dtype=torch.float64)
    assert smoothed_probs(probs, embeddings(N), nothing, empty, torch.tensor(1.0), 0.2).equal(probs)


def slow_graph(probs: Tensor, key_probs: Tensor, own: list[int], threshold: float) -> list[list[float]]:
    rows = []
    for b in range(len(probs)):
        row = []
        for j in range(len(key_probs)):
            agreement = dot(probs[b], key_probs[j])
            row.append(1.0 if j == own[b] else agreement if agreement >= threshold else 0.0)
        rows.append([w / sum(row) for w in row])
    return rows


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.6])
def test_pseudo_label_graph_equals_a_loop_over_pairs(threshold: float) -> None:
    keys = distributions(Q)
    probs, own = keys[2 : 2 + N], [2, 3, 4, 5]
    graph = pseudo_label_graph(probs, keys, torch.tensor(own), threshold)
    expected = torch.tensor(slow_graph(probs, keys, own, threshold), dtype=torch.float64)
    torch.testing.assert_close(graph, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(graph.sum(1), torch.ones(N, dtype=torch.float64))
    counts = [sum(w > 0 for w in row) - 1 for row in expected.tolist()]
    assert degrees(graph).tolist() == counts
    if threshold == 0.4:
        assert 0 < sum(counts) < N * (Q - 1), "edges that are all kept or all cut would prove nothing"


def test_an_agreement_of_exactly_the_threshold_is_an_edge() -> None:
    halves = torch.full((2, 2), 0.5)
    graph = pseudo_label_graph(halves, halves, torch.tensor([0, 1]), 0.5)
    torch.testing.assert_close(graph, torch.tensor([[2 / 3, 1 / 3], [1 / 3, 2 / 3]]))


def test_with_a_threshold_above_every_agreement_only_the_self_loop_is_left() -> None:
    probs = distributions(N)
    graph = pseudo_label_graph(probs, probs, torch.arange(N), 1.0)
    assert graph.equal(torch.eye(N, dtype=torch.float64))


@pytest.mark.parametrize("n_present", [Q, 5])
def test_graph_contrast_equals_a_loop_over_pairs(n_present: int) -> None:
    z, keys, key_probs = embeddings(N), embeddings(Q), distributions(Q)
    keys[n_present:], key_probs[n_present:] = 0, 0
    graph = pseudo_label_graph(key_probs[:N], key_probs, torch.arange(N), 0.4)
    total = 0.0
    for b in range(N):
        s = nearness(z[b], keys[:n_present], 0.2)
        total -= sum(graph[b, j].item() * math.log(s[j]) for j in range(n_present))
    present = torch.arange(Q) < n_present
    assert graph_contrast(z, keys, graph, 0.2, present).item() == pytest.approx(total / N, abs=1e-12)
    if n_present == Q:
        assert graph_contrast(z, keys, graph, 0.2).item() == pytest.approx(total / N, abs=1e-12)


def test_graph_contrast_is_least_where_the_graphs_are_equal() -> None:
    z, keys = embeddings(N), embeddings(Q)
    same = torch.softmax(similarity_logits(z, keys, 0.5), 1)
    entropy = -(same * same.log()).sum(1).mean()
    torch.testing.assert_close(graph_contrast(z, keys, same, 0.5), entropy)
    assert graph_contrast(z, keys, same.flip(1), 0.5) > entropy


def test_the_contrast_has_gradients_where_its_inputs_do_and_absent_columns_have_none() -> None:
    z, keys = embeddings(N).requires_grad_(), embeddings(Q).requires_grad_()
    graph = torch.eye(N, Q, dtype=torch.float64)
    graph_contrast(z, keys, graph, 0.2, torch.arange(Q) < 5).backward()
    assert z.grad is not None
    assert keys.grad is not None
    assert (z.grad.abs().sum(1) > 0).all()
    assert (keys.grad.abs().sum(1) > 0).tolist() == [True] * 5 + [False] * 2


def test_targets_carry_no_gradient() -> None:
    probs = distributions(N).requires_grad_()
    z, label = embeddings(N).requires_grad_(), torch.arange(N) % K
    similarity = torch.softmax(z @ z.T, 1)
    made = [
        smoothed_probs(probs, z, z, probs, 0.5, 0.2),
        pseudo_label_graph(probs, probs, torch.arange(N), 0.3),
        unfolded(similarity, probs, label),
        aggregated(similarity, label, K),
    ]
    assert not any(tensor.requires_grad for tensor in made)


def test_unfolding_and_aggregation_equal_loops() -> None:
    probs, label = distributions(N), torch.tensor([0, 2, 2, 0, 1, 2, 0])
    similarity = torch.softmax(3 * torch.randn(N, Q, dtype=torch.float64), 1)
    target, classes = unfolded(similarity, probs, label), aggregated(similarity, label, K)
    for b in range(N):
        weighted = [similarity[b, i].item() * probs[b, label[i]].item() for i in range(Q)]
        for i in range(Q):
            assert target[b, i].item() == pytest.approx(weighted[i] / sum(weighted), abs=1e-12)
        for c in range(K):
            expected = sum(similarity[b, i].item() for i in range(Q) if label[i] == c)
            assert classes[b, c].item() == pytest.approx(expected, abs=1e-12)


def test_unfolding_is_finite_where_the_believed_class_has_no_labeled_image() -> None:
    target = unfolded(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]]), torch.tensor([1, 1]))
    assert target.tolist() == [[0, 0]]
