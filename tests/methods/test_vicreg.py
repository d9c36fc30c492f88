import copy

import pytest
import torch
from tiny_problem import ACTIVE, make_batch, make_method, make_sgd
from torch import Tensor, nn

from eke.losses.redundancy import vicreg_terms

STEPS = 4
WEIGHTS = {"lambda_invariance": 3.0, "lambda_variance": 5.0, "lambda_covariance": 7.0}


def outputs(model: nn.Module, step: int) -> list[Tensor]:
    """The views' outputs, each of a forward of its own."""
    batch = make_batch("vicreg", step)
    return [model.projector(model.network(batch.u[view].pixels).embedding) for view in ("view_1", "view_2")]


def test_losses_and_weights_equal_a_reference_over_several_steps() -> None:
    method = make_method("vicreg", ACTIVE["vicreg"] | WEIGHTS)
    reference = copy.deepcopy(method)
    optimizer, reference_optimizer = make_sgd(method), make_sgd(reference)
    for step in range(STEPS):
        result = method(make_batch("vicreg", step))
        z_1, z_2 = outputs(reference, step)
        terms = vicreg_terms(z_1, z_2)
        expected = 3 * terms.invariance + 5 * terms.variance + 7 * terms.covariance
        assert result.loss.item() == pytest.approx(expected.item(), abs=1e-9)
        for name, value in terms._asdict().items():
            assert result.terms[name].item() == pytest.approx(value.item(), abs=1e-9)
            assert value.item() > 1e-3, f"{name}: a term that is nothing would prove nothing"
        unit = z_1 / z_1.norm(dim=1, keepdim=True)
        assert result.terms["z_std"].item() == pytest.approx((unit.std(0, correction=0).mean() * 4).item())
        for each, loss in ((optimizer, result.loss), (reference_optimizer, expected)):
            each.zero_grad()
            loss.backward()
            each.step()
    for (name, mine), theirs in zip(method.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("only", sorted(WEIGHTS))
def test_each_term_reaches_the_weights(only: str) -> None:
    method = make_method("vicreg", ACTIVE["vicreg"] | {name: float(name == only) for name in WEIGHTS})
    method(make_batch("vicreg", 0)).loss.backward()
    assert method.network.body[0].weight.grad.norm() > 1e-4


def test_the_head_is_the_papers() -> None:
    """Linear, batch norm, ReLU, twice, then a linear layer without bias (section 4.2 and the authors' code)."""
    layers = [layer for layer in make_method("vicreg").projector.modules() if not list(layer.children())]
    kinds = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in layers] == kinds
    assert [tuple(layer.weight.shape) for layer in layers if isinstance(layer, nn.Linear)] == [
        (16, 6),
        (16, 16),
        (16, 16),
    ]
    assert layers[-1].bias is None
