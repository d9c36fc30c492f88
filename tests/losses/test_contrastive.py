import math

import pytest
import torch
from torch import Tensor

from eke.losses.contrastive import nt_xent


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


def per_pair(z_1: Tensor, z_2: Tensor, T: float) -> Tensor:
    """SimCLR's equation 1 for each of the 2N ordered positive pairs, one candidate at a time."""
    N = len(z_1)
    views = [*z_1, *z_2]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(2 * N):
        j = (i + N) % (2 * N)
        candidates = [torch.exp(cosine(views[i], views[k]) / T) for k in range(2 * N) if k != i]
        total = total - torch.log(torch.exp(cosine(views[i], views[j]) / T) / sum(candidates))
    return total / (2 * N)


def draw(n: int = 4, width: int = 3) -> tuple[Tensor, Tensor]:
    z_1 = torch.randn(n, width, dtype=torch.float64)
    return z_1.requires_grad_(), (2 * z_1 + torch.randn(n, width)).detach().requires_grad_()


@pytest.mark.parametrize(("n", "temperature"), [(4, 0.5), (5, 0.1), (2, 3.0)])
def test_nt_xent_and_its_gradient_equal_a_loop_over_pairs(n: int, temperature: float) -> None:
    z_1, z_2 = draw(n)
    loss, expected = nt_xent(z_1, z_2, temperature), per_pair(z_1, z_2, temperature)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    mine, theirs = torch.autograd.grad(loss, (z_1, z_2)), torch.autograd.grad(expected, (z_1, z_2))
    for one, other in zip(mine, theirs, strict=True):
        assert one.norm() > 1e-3
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_equal_outputs_leave_a_guess_among_all_other_views() -> None:
    same = torch.ones(6, 3, dtype=torch.float64)
    assert nt_xent(same, same, 0.5).item() == pytest.approx(math.log(2 * 6 - 1), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 0.05])
def test_equal_views_of_orthogonal_images_have_the_closed_form(temperature: float) -> None:
    z = torch.eye(4, dtype=torch.float64)
    expected = math.log(1 + 6 * math.exp(-1 / temperature))
    assert nt_xent(z, z, temperature).item() == pytest.approx(expected, abs=1e-12)


def test_a_single_image_has_only_its_partner_to_find() -> None:
    z_1, z_2 = draw(1)
    assert nt_xent(z_1, z_2, 0.5).item() == 0


def test_lengths_order_and_which_view_is_first_do_not_count() -> None:
    z_1, z_2 = draw()
    loss, order = nt_xent(z_1, z_2, 0.5).item(), torch.tensor([2, 0, 3, 1])
    assert nt_xent(3 * z_1, z_2 / 7, 0.5).item() == pytest.approx(loss)
    assert nt_xent(z_2, z_1, 0.5).item() == pytest.approx(loss)
    assert nt_xent(z_1[order], z_2[order], 0.5).item() == pytest.approx(loss)
    assert nt_xent(z_1, z_2[order], 0.5).item() != pytest.approx(loss)


def test_a_low_temperature_neither_overflows_nor_loses_the_gradient() -> None:
    z_1, z_2 = (z.detach().float().requires_grad_() for z in draw())
    loss = nt_xent(z_1, -z_2, 1e-3)
    loss.backward()
    assert 100 < loss.item() < 2001
    assert torch.isfinite(z_1.grad).all()
    assert z_1.grad.norm() > 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_of_half_precision_outputs_is_float32(dtype: torch.dtype) -> None:
    z_1, z_2 = (z.detach().to(dtype) for z in draw())
    loss = nt_xent(z_1, z_2, 0.1)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(per_pair(z_1.double(), z_2.double(), 0.1).item(), rel=1e-5)
