import math

import pytest
import torch
from torch import nn

from eke.engine.optim import OptimOptions, learning_rate, make_optimizer


def test_seven_sixteenths_of_a_cosine_ends_at_a_fifth() -> None:
    options = OptimOptions(lr=0.03)
    assert learning_rate(0, options, 1000) == 0.03
    assert learning_rate(1000, options, 1000) == pytest.approx(0.03 * math.cos(7 * math.pi / 16))
    assert learning_rate(500, options, 1000) == pytest.approx(0.03 * math.cos(7 * math.pi / 32))


def test_half_cosine_ends_at_zero_and_constant_stays() -> None:
    half = OptimOptions(lr=1.0, schedule="half-cosine")
    assert learning_rate(500, half, 1000) == pytest.approx(0.5)
    assert learning_rate(1000, half, 1000) == pytest.approx(0.0)
    assert learning_rate(999, OptimOptions(lr=0.5, schedule="constant"), 1000) == 0.5


def test_warmup_rises_linearly_and_the_schedule_starts_after_it() -> None:
    options = OptimOptions(lr=1.0, warmup_steps=10, schedule="half-cosine")
    assert [learning_rate(s, options, 110) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert learning_rate(10, options, 110) == pytest.approx(1.0)
    assert learning_rate(60, options, 110) == pytest.approx(0.5)


def test_warmup_takes_at_most_a_tenth_of_a_short_run() -> None:
    options = OptimOptions(lr=1.0, warmup_steps=100, schedule="constant")
    assert [learning_rate(s, options, 40) for s in (0, 1, 3, 4, 39)] == pytest.approx([0.25, 0.5, 1.0, 1.0, 1.0])
    assert learning_rate(0, options, 5) == 1.0


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_only_kernels_are_decayed_and_frozen_weights_are_left_out(name: str) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    module[2].weight.requires_grad_(False)
    optimizer = make_optimizer(module, OptimOptions(name=name, weight_decay=0.1))
    decayed, free = optimizer.param_groups
    assert [p.shape for p in decayed["params"]] == [module[0].weight.shape]
    assert decayed["weight_decay"] == 0.1
    assert len(free["params"]) == 4
    assert free["weight_decay"] == 0


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_each_optimizer_moves_downhill(name: str) -> None:
    module = nn.Linear(3, 1)
    optimizer = make_optimizer(module, OptimOptions(name=name, lr=0.05, weight_decay=1e-4))
    x, y = torch.randn(32, 3), torch.randn(32, 1)
    losses = []
    for _ in range(20):
        loss = (module(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_sgd_equals_nesterov_written_out() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=torch.float64))
    module = nn.Module()
    module.weight = weight
    optimizer = make_optimizer(module, OptimOptions(lr=0.1, momentum=0.9, weight_decay=0.01))
    w, v = weight.detach().clone(), torch.zeros_like(weight)
    for _ in range(5):
        optimizer.zero_grad()
        (weight**3).sum().backward()
        optimizer.step()
        g = 3 * w**2 + 0.01 * w
        v = 0.9 * v + g
        w = w - 0.1 * (g + 0.9 * v)
    assert torch.allclose(weight, w, atol=1e-12)
