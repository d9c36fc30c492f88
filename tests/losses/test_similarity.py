import math

import pytest
import torch
from torch import Tensor

from eke.losses.similarity import negative_cosine, spread, squared_distance, unit_length


def draw(n: int = 5, width: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(n, width, dtype=torch.float64), 3 * torch.randn(n, width, dtype=torch.float64)


def directions(rows: Tensor) -> list[list[float]]:
    return [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in rows.tolist()]


def test_cosine_and_distance_equal_a_double_loop() -> None:
    p, z = draw()
    cosine = distance = 0.0
    for a, b in zip(directions(p), directions(z), strict=True):
        cosine += sum(x * y for x, y in zip(a, b, strict=True)) / 5
        distance += sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / 5
    assert negative_cosine(p, z).item() == pytest.approx(-cosine, abs=1e-12)
    assert squared_distance(p, z).item() == pytest.approx(distance, abs=1e-12)
    assert distance == pytest.approx(2 - 2 * cosine, abs=1e-12)


def test_equal_and_opposite_directions_are_the_ends_of_both_scales() -> None:
    p, _ = draw()
    assert negative_cosine(p, 7 * p).item() == pytest.approx(-1)
    assert negative_cosine(p, -p).item() == pytest.approx(1)
    assert squared_distance(p, 7 * p).item() == pytest.approx(0, abs=1e-12)
    assert squared_distance(p, -p).item() == pytest.approx(4)


@pytest.mark.parametrize("loss", [negative_cosine, squared_distance])
def test_the_gradient_is_that_of_the_directions_and_reaches_both_sides(loss) -> None:
    p, z = (side.requires_grad_() for side in draw())
    assert torch.autograd.gradcheck(loss, (p, z))
    loss(p, z).backward()
    for side in (p, z):
        assert side.grad.norm() > 0.01
        torch.testing.assert_close((side.grad * side).sum(1), torch.zeros(5).double())  # lengths do not count


@pytest.mark.parametrize("loss", [negative_cosine, squared_distance])
def test_a_row_of_zeros_has_no_direction_and_a_finite_gradient(loss) -> None:
    p, z = torch.zeros(2, 3, requires_grad=True), torch.eye(3)[:2]
    value = loss(p, z)
    value.backward()
    assert value.item() == pytest.approx(0 if loss is negative_cosine else 1)
    assert torch.isfinite(p.grad).all()


def test_spread_equals_a_double_loop() -> None:
    outputs, _ = draw(6, 4)
    rows = directions(outputs)
    total = 0.0
    for d in range(4):
        mean = sum(row[d] for row in rows) / 6
        total += math.sqrt(sum((row[d] - mean) ** 2 for row in rows) / 6) / 4
    assert spread(outputs.requires_grad_()).item() == pytest.approx(total * 2, abs=1e-12)
    assert not spread(outputs).requires_grad


def test_spread_is_0_for_one_direction_and_1_for_all() -> None:
    one = torch.rand(20, 1) @ torch.ones(1, 8)
    assert spread(one).item() == pytest.approx(0, abs=1e-6)
    assert spread(torch.randn(20_000, 8)).item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lengths_of_half_precision_outputs_are_float32(dtype: torch.dtype) -> None:
    p = torch.full((2, 64), 300.0, dtype=dtype)  # whose squares add up to more than float16 holds
    for value in (unit_length(p), negative_cosine(p, p), squared_distance(p, p), spread(p)):
        assert value.dtype == torch.float32
    assert negative_cosine(p, p).item() == pytest.approx(-1)
