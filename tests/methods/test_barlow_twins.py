import copy

import pytest
import torch
from tiny_problem import make_batch, make_method, make_sgd
from torch import Tensor, nn

from eke.losses.redundancy import barlow_twins_terms

STEPS = 4


def outputs(model: nn.Module, step: int) -> list[Tensor]:
    """The views' outputs, each of a forward of its own."""
    batch = make_batch("barlow_twins", step)
    return [model.projector(model.network(batch.u[view].pixels).embedding) for view in ("view_1", "view_2")]


def test_losses_and_weights_equal_a_reference_over_several_steps() -> None:
    options = {"projector_width": 16, "lambda_redundancy": 0.3, "loss_scale": 0.1}
    method = make_method("barlow_twins", options)
    reference = copy.deepcopy(method)
    optimizer, reference_optimizer = make_sgd(method), make_sgd(reference)
    for step in range(STEPS):
        result = method(make_batch("barlow_twins", step))
        z_1, z_2 = outputs(reference, step)
        invariance, redundancy = barlow_twins_terms(z_1, z_2)
        expected = 0.1 * (invariance + 0.3 * redundancy)
        assert result.loss.item() == pytest.approx(expected.item(), abs=1e-9)
        assert result.terms["invariance"].item() == pytest.approx(invariance.item(), abs=1e-9)
        assert result.terms["redundancy"].item() == pytest.approx(redundancy.item(), abs=1e-9)
        unit = z_1 / z_1.norm(dim=1, keepdim=True)
        assert result.terms["z_std"].item() == pytest.approx((unit.std(0, correction=0).mean() * 4).item())
        for each, loss in ((optimizer, result.loss), (reference_optimizer, expected)):
            each.zero_grad()
            loss.backward()
            each.step()
    for (name, mine), theirs in zip(method.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9, msg=name)


def test_the_head_is_the_papers() -> None:
    """Linear, batch norm, ReLU, twice, then a linear layer; none with a bias (section 2.2 and the authors' code)."""
    layers = [layer for layer in make_method("barlow_twins").projector.modules() if not list(layer.children())]
    kinds = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in layers] == kinds
    shapes = [tuple(layer.weight.shape) for layer in layers if isinstance(layer, nn.Linear)]
    assert shapes == [(16, 6), (16, 16), (16, 16)]
    assert all(layer.bias is None for layer in layers if isinstance(layer, nn.Linear))


def test_both_views_of_every_image_get_a_gradient() -> None:
    method, batch = make_method("barlow_twins").eval(), make_batch("barlow_twins", 0)
    pixels = [sight.pixels.requires_grad_() for sight in batch.u.values()]
    method(batch).loss.backward()
    for view in pixels:
        assert (view.grad.flatten(1).abs().sum(1) > 0).all()
