import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from eke.errors import ConfigError, DataError
from eke.metrics import representation
from eke.metrics.representation import effective_rank, embedding_std, knn_probs


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def slow_knn(queries: Tensor, bank: Tensor, labels: list[int], n_classes: int, k: int, T: float) -> Tensor:
    """Wu et al., section 3.4: w_c = sum over the neighbors i of exp(s_i / T) [c_i = c], here divided by sum_c w_c."""
    rows = []
    for query in queries.tolist():
        similar = sorted(((cosine(query, other), c) for other, c in zip(bank.tolist(), labels, strict=True)))[::-1]
        weights = [0.0] * n_classes
        for s, c in similar[:k]:
            weights[c] += math.exp(s / T)
        rows.append([w / sum(weights) for w in weights])
    return torch.tensor(rows, dtype=torch.float64)


LABELS = [0, 2, 2, 3, 0, 2, 3, 0, 0, 2, 3]
"""Class 1 has no image."""


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (3, 0.07), (5, 1.0), (11, 0.3), (200, 0.07)])
def test_votes_are_those_of_the_paper(k: int, temperature: float) -> None:
    queries, bank = normal(7, 5), 3 * normal(11, 5, seed=1)
    probs = knn_probs(queries, bank, torch.tensor(LABELS), 4, k, temperature)
    torch.testing.assert_close(probs, slow_knn(queries, bank, LABELS, 4, k, temperature), rtol=0, atol=1e-9)
    torch.testing.assert_close(probs.sum(1), torch.ones(7, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (probs[:, 1] == 0).all()


def test_votes_have_the_defaults_of_their_table() -> None:
    queries, bank, labels = normal(3, 4), normal(30, 4, seed=1), torch.arange(30) % 3
    torch.testing.assert_close(knn_probs(queries, bank, labels, 3), knn_probs(queries, bank, labels, 3, 20, 0.07))
    assert not torch.allclose(knn_probs(queries, bank, labels, 3), knn_probs(queries, bank, labels, 3, 30, 0.07))


def test_an_image_of_the_bank_finds_itself_and_scale_does_not_matter() -> None:
    bank, labels = normal(6, 8), torch.arange(6)
    for scale in (1e-6, 1.0, 1e6):
        assert knn_probs(scale * bank, bank, labels, 6, k=1).argmax(1).tolist() == [0, 1, 2, 3, 4, 5]


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize("limit", [1, 150, 10_000])
def test_similarities_never_exist_whole_and_blocks_change_nothing(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, bank, labels = normal(90, 2), normal(70, 2, seed=1), torch.arange(70) % 5
    whole = knn_probs(queries, bank, labels, 5, k=4)
    monkeypatch.setattr(representation, "BLOCK_ELEMENTS", limit)
    with Largest() as largest:
        blocked = knn_probs(queries, bank, labels, 5, k=4)
    torch.testing.assert_close(blocked, whole, rtol=0, atol=1e-12)
    inevitable = 90 * 5  # what is returned
    assert largest.elements <= max(limit, inevitable)
    assert (largest.elements == 90 * 70) == (limit == 10_000)


def test_collapsed_and_zero_embeddings_are_votes_of_all() -> None:
    bank, labels = torch.zeros(4, 3), torch.tensor([0, 0, 0, 1])
    for value in (0.0, 2.0):
        probs = knn_probs(torch.full((2, 3), value), bank, labels, 2)
        torch.testing.assert_close(probs, torch.tensor([[0.75, 0.25]] * 2))
    assert knn_probs(torch.empty(0, 3), bank, labels, 2).shape == (0, 2)


def test_half_precision_is_computed_in_float32() -> None:
    queries, bank, labels = normal(4, 6).half(), normal(9, 6, seed=1).half(), torch.arange(9) % 3
    probs = knn_probs(queries, bank, labels, 3, k=4)
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs, knn_probs(queries.float(), bank.float(), labels, 3, k=4))
    assert embedding_std(bank).dtype == effective_rank(bank).dtype == torch.float32


def test_a_bank_that_cannot_vote_is_refused() -> None:
    queries, bank = normal(2, 3), normal(4, 3)
    with pytest.raises(DataError, match="0 labels for 0 images"):
        knn_probs(queries, bank[:0], torch.empty(0, dtype=torch.int64), 2)
    with pytest.raises(DataError, match="3 labels for 4 images"):
        knn_probs(queries, bank, torch.tensor([0, 1, 0]), 2)
    with pytest.raises(ConfigError, match="k = 0"):
        knn_probs(queries, bank, torch.tensor([0, 1, 0, 1]), 2, k=0)
    with pytest.raises(ConfigError, match="temperature 0"):
        knn_probs(queries, bank, torch.tensor([0, 1, 0, 1]), 2, temperature=0)


def slow_std(embeddings: Tensor) -> float:
    """SimSiam, section 4.1: the mean over dimensions of the std of z / |z|, in units of 1 / sqrt(D)."""
    rows = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in embeddings.tolist()]
    deviations = []
    for column in zip(*rows, strict=True):
        mean = sum(column) / len(column)
        deviations.append(math.sqrt(sum((x - mean) ** 2 for x in column) / len(column)))
    return sum(deviations) / len(deviations) * math.sqrt(len(deviations))


def test_spread_is_that_of_the_paper() -> None:
    embeddings = normal(13, 4) + torch.tensor([1.0, 0.0, 0.0, 3.0])
    assert float(embedding_std(embeddings)) == pytest.approx(slow_std(embeddings), abs=1e-9)


def test_a_uniform_sphere_has_spread_1_and_a_point_0() -> None:
    assert float(embedding_std(normal(20_000, 16))) == pytest.approx(1, abs=0.01)
    for point in (torch.ones(9, 5), torch.zeros(9, 5), 1e4 * torch.ones(1, 5)):
        assert float(embedding_std(point)) == pytest.approx(0, abs=1e-6)
    lengths = torch.arange(1.0, 10.0)[:, None] * torch.tensor([[3.0, 4.0]])
    assert float(embedding_std(lengths)) == pytest.approx(0, abs=1e-6), "one direction is one point"


def slow_rank(embeddings: Tensor) -> float:
    """Roy and Vetterli, definition 1, of the embeddings less their mean."""
    centered = embeddings - embeddings.mean(0)
    squares = torch.linalg.eigvalsh(centered.T @ centered).clamp_min(0).tolist()
    values = [math.sqrt(square) for square in squares]
    shares = [value / sum(values) for value in values]
    return math.exp(-sum(p * math.log(p) for p in shares if p > 0))


def test_rank_is_that_of_the_paper() -> None:
    embeddings = normal(40, 6) * torch.tensor([5.0, 3.0, 1.0, 0.5, 0.2, 0.1], dtype=torch.float64) + 2
    assert float(effective_rank(embeddings)) == pytest.approx(slow_rank(embeddings), abs=1e-9)


def test_rank_counts_the_dimensions_that_are_filled() -> None:
    corners = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    assert float(effective_rank(corners)) == pytest.approx(4, abs=1e-9)
    assert float(effective_rank(corners + 7)) == pytest.approx(4, abs=1e-9), "a common offset counts nothing"
    assert float(effective_rank(corners @ normal(4, 2) @ normal(2, 9))) <= 2
    line = torch.linspace(-1, 1, 11)[:, None] * torch.tensor([[1.0, 2.0, -1.0]]) + 1
    assert float(effective_rank(line)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("point", [torch.zeros(6, 4), torch.full((6, 4), 0.1), torch.rand(1, 4)])
def test_a_point_has_rank_1(point: Tensor) -> None:
    assert float(effective_rank(point)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_a_narrow_direction_counts(offset: float) -> None:
    narrow = (normal(300, 3) * torch.tensor([1.0, 1e-2, 1e-3]) + offset).float()
    rank = float(effective_rank(narrow))
    assert rank == pytest.approx(slow_rank(narrow.double()), abs=1e-4)
    assert rank > float(effective_rank(narrow[:, :2])) + 1e-3


def test_rounding_is_not_a_direction() -> None:
    """A collapsed network's embeddings differ in their last bits, in every dimension."""
    noise = 1 + torch.randint(-2, 3, (200, 16), generator=torch.Generator().manual_seed(0)) * torch.finfo().eps
    point = 3 * torch.rand(16, generator=torch.Generator().manual_seed(1)) * noise
    assert point.std(0).min() > 0
    assert float(effective_rank(point)) == pytest.approx(1, abs=1e-6)
    assert float(embedding_std(point)) == pytest.approx(0, abs=1e-6)
