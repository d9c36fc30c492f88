import copy

import pytest
import torch
from tiny_problem import make_batch, make_method
from torch import Tensor

from eke.losses.contrastive import nt_xent


def images(step: int = 0) -> dict[str, Tensor]:
    return {view: sight.pixels for view, sight in make_batch("simclr", step).u.items()}


def project(method, h: Tensor) -> Tensor:
    """The paper's z = W_2 relu(W_1 h), with the head's biases."""
    first, _, last = method.projector
    return (h @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias


@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_the_loss_contrasts_projections_of_both_views(temperature: float) -> None:
    method = make_method("simclr", {"temperature": temperature})
    network = copy.deepcopy(method.network)
    u = images()
    z = project(method, network(torch.cat([u["view_1"], u["view_2"]])).embedding)  # with common batch statistics
    expected = nt_xent(z[:16], z[16:], temperature)
    result = method(make_batch("simclr", 0))
    assert result.loss.item() == pytest.approx(expected.item(), abs=1e-9)
    unit = z[:16] / z[:16].norm(dim=1, keepdim=True)
    assert result.terms["z_std"].item() == pytest.approx((unit.std(0, correction=0).mean() * 128**0.5).item())


def test_the_head_keeps_the_width_and_gives_128() -> None:
    method = make_method("simclr")
    assert [tuple(p.shape) for p in method.projector.parameters()] == [(6, 6), (6,), (128, 6), (128,)]


def test_both_views_of_every_image_get_a_gradient() -> None:
    method, batch = make_method("simclr").eval(), make_batch("simclr", 0)
    pixels = [sight.pixels.requires_grad_() for sight in batch.u.values()]
    method(batch).loss.backward()
    for view in pixels:
        assert (view.grad.flatten(1).abs().sum(1) > 0).all()
