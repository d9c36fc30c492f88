import pytest
import torch
import torch.nn.functional as F

from eke.acquire import descriptors as module
from eke.acquire.descriptors import discrepancy, principal_components, quantize
from eke.errors import ConfigError

from .conftest import generator, random_features


def test_components_change_dot_products_by_at_most_the_lengths_left_out() -> None:
    mixed = random_features(400, 4) @ random_features(4, 30, seed=5) + 0.05 * random_features(400, 30, seed=6)
    unit = F.normalize(mixed + 0.3, dim=1)
    found = principal_components(unit, 5)
    left_out = unit - unit @ found.directions @ found.directions.T
    error = (found.shrink(unit) @ found.shrink(unit).T - unit @ unit.T).abs()
    bound = left_out.norm(dim=1)[:, None] * left_out.norm(dim=1)
    assert bool((error <= bound + 1e-6).all())
    assert float(error.max()) < 0.02
    assert 0.99 < found.kept_rate < 1
    assert found.kept_rate == pytest.approx(1 - float(left_out.square().sum() / unit.square().sum()), abs=1e-5)
    torch.testing.assert_close(found.directions.T @ found.directions, torch.eye(5), atol=1e-5, rtol=0)


def test_all_components_are_a_rotation_and_fewer_keep_the_largest() -> None:
    x = random_features(100, 6) * torch.tensor([9.0, 1, 1, 5, 1, 1])
    whole = principal_components(x, 6)
    assert whole.kept_rate == pytest.approx(1)
    torch.testing.assert_close(whole.shrink(x) @ whole.shrink(x).T, x @ x.T, rtol=1e-4, atol=1e-3)
    assert principal_components(x, 2).directions.abs().argmax(0).tolist() == [0, 3]
    with pytest.raises(ConfigError, match="7 components"):
        principal_components(x, 7)


def test_codes_are_within_half_a_step_and_keep_cosines() -> None:
    x = torch.cat(
        [random_features(300, 384) * 10.0 ** torch.randn(300, 1, generator=generator(3)), torch.zeros(1, 384)]
    )
    codes, steps = quantize(x)
    assert codes.dtype == torch.int8
    assert bool(((codes * steps - x).abs() <= 0.5001 * steps).all())
    assert not codes[-1].any()
    exact, coded = (F.normalize(v.float(), dim=1) for v in (x, codes))
    assert float((exact @ exact.T - coded @ coded.T).abs().max()) < 0.005


@pytest.mark.parametrize("block", [16, 16_384])
def test_discrepancy_is_that_of_all_pairs(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    d, a = random_features(40, 5), random_features(40, 5, seed=8)
    e, b = random_features(70, 5, seed=9), random_features(70, 5, seed=10)

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.normalize(x.double(), dim=1) @ F.normalize(y.double(), dim=1).T

    whole = (kernel(d, d) * kernel(a, a)).mean() + (kernel(e, e) * kernel(b, b)).mean()
    assert discrepancy(d, e, a, b) == pytest.approx(float(whole - 2 * (kernel(d, e) * kernel(a, b)).mean()), abs=1e-12)
    alone = kernel(d, d).mean() + kernel(e, e).mean() - 2 * kernel(d, e).mean()
    assert discrepancy(d, e) == pytest.approx(float(alone), abs=1e-12)
    assert discrepancy(d, d.flip(0), a, a.flip(0)) == pytest.approx(0, abs=1e-20)
    with pytest.raises(ConfigError, match="both sides"):
        discrepancy(d, e, a)
    with pytest.raises(ConfigError, match="empty"):
        discrepancy(d, e[:0])
