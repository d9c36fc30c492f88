import math

import pytest
import torch
from torch import Tensor

from eke.losses.redundancy import barlow_twins_terms, vicreg_terms

N, D = 7, 4


def draw() -> tuple[Tensor, Tensor]:
    """Two views that are alike, of dimensions that go together and vary differently."""
    common = torch.randn(N, D, dtype=torch.float64) @ torch.randn(D, D, dtype=torch.float64)
    scale = torch.tensor([0.2, 0.5, 1.0, 3.0], dtype=torch.float64)
    views = [(common + 0.8 * torch.randn(N, D, dtype=torch.float64)) * scale + 5 for _ in range(2)]
    return views[0].requires_grad_(), views[1].requires_grad_()


def scalars(z: Tensor) -> list[list[Tensor]]:
    return [[z[b, i] for i in range(z.shape[1])] for b in range(len(z))]


def column_mean(z: list[list[Tensor]], i: int) -> Tensor:
    return sum((row[i] for row in z), torch.zeros(())) / len(z)


def correlation(z_1: list[list[Tensor]], z_2: list[list[Tensor]], i: int, j: int) -> Tensor:
    """The paper's equation 2 of centered outputs; 1e-5 on variances, as in the authors' batch norm."""
    m_1, m_2 = column_mean(z_1, i), column_mean(z_2, j)
    pairs = [(a[i] - m_1, b[j] - m_2) for a, b in zip(z_1, z_2, strict=True)]
    products: Tensor = sum((x * y for x, y in pairs), torch.zeros(()))
    squares_1: Tensor = sum((x * x for x, _ in pairs), torch.zeros(()))
    squares_2: Tensor = sum((y * y for _, y in pairs), torch.zeros(()))
    n = len(z_1)
    return products / n / (torch.sqrt(squares_1 / n + 1e-5) * torch.sqrt(squares_2 / n + 1e-5))


def slow_barlow_twins(z_1: Tensor, z_2: Tensor) -> tuple[Tensor, Tensor]:
    one, two = scalars(z_1), scalars(z_2)
    invariance = redundancy = torch.zeros((), dtype=torch.float64)
    for i in range(D):
        for j in range(D):
            c = correlation(one, two, i, j)
            if i == j:
                invariance = invariance + (1 - c) ** 2
            else:
                redundancy = redundancy + c**2
    return invariance, redundancy


def covariance(z: list[list[Tensor]], i: int, j: int) -> Tensor:
    m_i, m_j = column_mean(z, i), column_mean(z, j)
    return sum(((row[i] - m_i) * (row[j] - m_j) for row in z), torch.zeros(())) / (len(z) - 1)


def slow_vicreg(z_1: Tensor, z_2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    one, two = scalars(z_1), scalars(z_2)
    invariance = variance = both = torch.zeros((), dtype=torch.float64)
    for a, b in zip(one, two, strict=True):
        for i in range(D):
            invariance = invariance + (a[i] - b[i]) ** 2 / (N * D)
    for z in (one, two):
        for i in range(D):
            spread = torch.sqrt(covariance(z, i, i) + 1e-4)
            if spread < 1:
                variance = variance + (1 - spread) / D
            for j in range(D):
                if i != j:
                    both = both + covariance(z, i, j) ** 2 / D
    return invariance, variance, both


CASES = [
    pytest.param(barlow_twins_terms, slow_barlow_twins, id="barlow_twins"),
    pytest.param(vicreg_terms, slow_vicreg, id="vicreg"),
]


@pytest.mark.parametrize(("fast", "slow"), CASES)
def test_terms_and_their_gradients_equal_a_slow_reference(fast, slow) -> None:
    z_1, z_2 = draw()
    terms = fast(z_1, z_2)
    for name, mine, theirs in zip(terms._fields, terms, slow(z_1, z_2), strict=True):
        assert mine.item() == pytest.approx(theirs.item(), abs=1e-9), name
        assert mine.item() > 1e-2, f"{name}: a term that is nothing would prove nothing"
        gradients = (torch.autograd.grad(each, (z_1, z_2), retain_graph=True) for each in (mine, theirs))
        for one, two in zip(*gradients, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-9, msg=name)


def uncorrelated(scale: float) -> Tensor:
    """Eight rows of four uncorrelated columns of mean 0 and variance scale^2, from a Hadamard matrix."""
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    return scale * torch.kron(torch.kron(pair, pair), pair)[:, 1:5]


def test_equal_views_of_uncorrelated_dimensions_are_without_loss() -> None:
    z = uncorrelated(1000.0)
    assert [term.item() for term in barlow_twins_terms(z, z)] == pytest.approx([0, 0], abs=1e-12)
    # 3 > 1: the hinge does not reward more variance than gamma
    assert [term.item() for term in vicreg_terms(uncorrelated(3.0), uncorrelated(3.0))] == pytest.approx([0, 0, 0])


def test_barlow_twins_sees_neither_shift_nor_scale_of_a_dimension_but_its_sign() -> None:
    z_1, z_2 = (z.detach() * 1000 for z in draw())
    scale = torch.tensor([2.0, 5.0, 1.0, 9.0], dtype=torch.float64)
    before, after = barlow_twins_terms(z_1, z_2), barlow_twins_terms(z_1 * scale + 7, z_2)
    assert [term.item() for term in after] == pytest.approx([term.item() for term in before], rel=1e-6)
    z = uncorrelated(1000.0)
    assert barlow_twins_terms(z, -z).invariance.item() == pytest.approx(4 * 4, abs=1e-6)  # correlations of -1


@pytest.mark.parametrize("point", [0.0, 3.0])
def test_outputs_collapsed_to_a_point_are_penalized_with_a_finite_gradient(point: float) -> None:
    z = torch.full((N, D), point, dtype=torch.float64, requires_grad=True)
    correlations, parts = barlow_twins_terms(z, z), vicreg_terms(z, z)
    assert correlations.invariance.item() == pytest.approx(D)  # every correlation is 0
    assert parts.variance.item() == pytest.approx(2 * (1 - math.sqrt(1e-4)))
    assert parts.invariance.item() == parts.covariance.item() == 0
    (sum(correlations) + sum(parts)).backward()
    assert torch.isfinite(z.grad).all()


def test_outputs_collapsed_to_a_line_are_penalized() -> None:
    line = uncorrelated(1.0)[:, :1].expand(-1, D)
    assert barlow_twins_terms(line, line).redundancy.item() == pytest.approx(D * (D - 1), rel=1e-4)
    assert vicreg_terms(line, line).covariance.item() == pytest.approx(2 * (D - 1) * (8 / 7) ** 2)
    assert vicreg_terms(line, line).variance.item() == 0


def test_a_nearly_collapsed_dimension_is_pushed_apart() -> None:
    z = (0.1 * uncorrelated(1.0)).requires_grad_()
    vicreg_terms(z, z.detach()).variance.backward()
    step = z.detach() - 0.1 * z.grad
    assert (step.var(0) > z.detach().var(0)).all()


@pytest.mark.parametrize("terms", [barlow_twins_terms, vicreg_terms])
def test_under_autocast_products_stay_float32(terms) -> None:
    z_1, z_2 = (torch.randn(64, 16) for _ in range(2))
    exact = terms(z_1, z_2)
    with torch.autocast("cpu", torch.bfloat16):
        inside = terms(z_1, z_2)
        rounded = terms(z_1.bfloat16(), z_2.bfloat16())
    for name, one, two, three in zip(exact._fields, exact, inside, rounded, strict=True):
        assert one.item() == two.item(), name
        assert three.dtype == torch.float32
        assert three.item() == pytest.approx(one.item(), rel=0.02)


@pytest.mark.parametrize("terms", [barlow_twins_terms, vicreg_terms])
def test_the_order_of_images_and_of_views_does_not_count(terms) -> None:
    z_1, z_2 = (z.detach() for z in draw())
    order = torch.tensor([3, 1, 6, 4, 0, 5, 2])
    expected = pytest.approx([term.item() for term in terms(z_1, z_2)])
    assert [term.item() for term in terms(z_1[order], z_2[order])] == expected
    assert [term.item() for term in terms(z_2, z_1)] == expected
