import itertools
import math

import pytest
import torch
from torch import Tensor

from eke.acquire import batch_bald as module
from eke.acquire.batch_bald import batch_bald

from .conftest import N, random_draws

ORDER = torch.arange(N)


def information(draws: Tensor) -> float:
    """Return the mutual information of the labels of all these images with the passes, by listing all joint labels."""
    n, n_passes, n_classes = draws.shape
    joint = 0.0
    for labels in itertools.product(range(n_classes), repeat=n):
        p = sum(math.prod(float(draws[i, t, y]) for i, y in enumerate(labels)) for t in range(n_passes)) / n_passes
        joint -= p * math.log(p)
    return joint - float(torch.special.entr(draws).sum((0, 2)).mean())


def test_batch_bald_is_greedy_in_the_mutual_information_of_joint_labels() -> None:
    draws = random_draws(t=5, k=3).double()
    draws /= draws.sum(2, keepdim=True)
    rows, gains = batch_bald(draws, 3, ORDER, 0)
    chosen: list[int] = []
    for row, gain in zip(rows.tolist(), gains.tolist(), strict=True):
        before = information(draws[chosen]) if chosen else 0.0
        values = {i: information(draws[[*chosen, i]]) for i in range(N) if i not in chosen}
        assert row == max(values, key=lambda i: values[i])
        assert gain == pytest.approx(values[row] - before, abs=1e-9)
        chosen.append(row)


def test_sampled_joint_labels_agree_with_exact_ones() -> None:
    draws = (random_draws(60, t=5, k=3).log() + torch.tensor([2.0, 0.0, -2.0])).softmax(2)  # some labels are rare
    rows, exact = batch_bald(draws, 7, torch.arange(60), 0, max_states=10**6)
    sampled_rows, sampled = batch_bald(draws[rows], 7, torch.arange(7), 0, max_states=27, n_samples=20_000)
    order = sampled_rows.tolist()
    again = batch_bald(draws[rows][order], 7, torch.arange(7), 0, max_states=10**6)[1]
    assert float(sampled.sum()) == pytest.approx(float(again.sum()), abs=0.03)
    assert float(exact.sum()) >= float(again.sum()) - 0.1


def test_a_copy_tells_less_than_another_image_and_the_best_two_singly_are_not_the_best_pair() -> None:
    a, b = torch.tensor([[0.95, 0.05], [0.05, 0.95]]).repeat(2, 1), torch.tensor([[0.9, 0.1]] * 2 + [[0.1, 0.9]] * 2)
    rows, gains = batch_bald(torch.stack([a, a, b]), 3, torch.arange(3), 0)
    assert rows.tolist() == [0, 2, 1]
    assert gains[2] < gains[1] < gains[0]


def test_many_images_of_many_classes_do_not_underflow_and_blocks_are_seamless(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = random_draws(t=4, k=20)
    rows, gains = batch_bald(draws, 120, ORDER, 0, max_states=500, n_samples=50)
    assert len(set(rows.tolist())) == 120
    assert gains.isfinite().all()
    monkeypatch.setattr(module, "ENTRIES", 7 * 20 * 50)
    assert batch_bald(draws, 20, ORDER, 0, max_states=500, n_samples=50)[0].tolist() == rows[:20].tolist()


def test_passes_of_zeros_and_ones() -> None:
    draws = torch.eye(3)[torch.arange(N * 4).remainder(3).reshape(N, 4)]
    rows, gains = batch_bald(draws, N, ORDER, 0)
    assert sorted(rows.tolist()) == list(range(N))
    assert gains.isfinite().all()
    assert float(gains.sum()) == pytest.approx(float(gains[:2].sum()), abs=1e-6), "four passes are told apart by two"
