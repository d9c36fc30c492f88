import copy

import pytest
import torch
from tiny_problem import make_batch, make_method, make_sgd
from torch import Tensor

VIEWS = ("view_1", "view_2")


def images(step: int = 0) -> list[Tensor]:
    return [make_batch("simsiam", step).u[view].pixels for view in VIEWS]


def outputs(method, view: Tensor) -> tuple[Tensor, Tensor]:
    """Projections and predictions of one view, in a forward of its own."""
    z = method.projector(method.network(view).embedding)
    return z, method.predictor(z)


def mean_cosine(p: Tensor, z: Tensor) -> Tensor:
    pairs = zip(p, z, strict=True)
    return sum(((a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt() for a, b in pairs), torch.zeros(())) / len(p)


def test_the_loss_is_the_papers() -> None:
    method = make_method("simsiam")
    (z_1, p_1), (z_2, p_2) = (outputs(copy.deepcopy(method), view) for view in images())
    expected = -mean_cosine(p_1, z_2) / 2 - mean_cosine(p_2, z_1) / 2
    result = method(make_batch("simsiam", 0))
    assert result.loss.item() == pytest.approx(expected.item(), abs=1e-9)
    unit = z_1 / z_1.norm(dim=1, keepdim=True)
    assert result.terms["z_std"].item() == pytest.approx((unit.std(0, correction=0).mean() * 32**0.5).item())


@pytest.mark.parametrize("mine", [0, 1])
def test_a_view_is_moved_by_its_prediction_and_never_as_a_target(mine: int) -> None:
    method, batch = make_method("simsiam"), make_batch("simsiam", 0)
    reference, other = copy.deepcopy(method), copy.deepcopy(method)
    with torch.no_grad():
        constant = outputs(other, images()[1 - mine])[0]
    view = images()[mine].requires_grad_()
    (-mean_cosine(outputs(reference, view)[1], constant) / 2).backward()

    pixels = batch.u[VIEWS[mine]].pixels.requires_grad_()
    method(batch).loss.backward()
    assert view.grad.norm() > 1e-4
    torch.testing.assert_close(pixels.grad, view.grad, rtol=0, atol=1e-12)


def test_the_weights_follow_both_predictions_and_never_a_target() -> None:
    method = make_method("simsiam")
    reference, other = copy.deepcopy(method), copy.deepcopy(method)
    with torch.no_grad():
        constants = [outputs(other, view)[0] for view in images()]
    predictions = [outputs(reference, view)[1] for view in images()]
    (-(mean_cosine(predictions[0], constants[1]) + mean_cosine(predictions[1], constants[0])) / 2).backward()
    method(make_batch("simsiam", 0)).loss.backward()
    for mine, theirs in zip(method.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-12)


def test_projections_are_standardized_and_nothing_scales_them() -> None:
    method = make_method("simsiam", {})
    z, p = outputs(method, images()[0])
    assert z.shape == p.shape == (16, 2048)
    torch.testing.assert_close(z.mean(0), torch.zeros(2048).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(2048).double(), rtol=0, atol=1e-2)
    assert not list(method.projector[-1].parameters())


def test_widths_are_the_papers() -> None:
    def widths(options: dict[str, int], head: str) -> list[tuple[int, ...]]:
        method = make_method("simsiam", options)
        return [tuple(p.shape)[::-1] for p in getattr(method, head).parameters() if p.ndim == 2]

    assert widths({}, "projector") == [(6, 2048), (2048, 2048), (2048, 2048)]
    assert widths({"projector_layers": 2}, "projector") == [(6, 2048), (2048, 2048)]
    assert widths({}, "predictor") == [(2048, 512), (512, 2048)]


def test_outputs_do_not_collapse_where_equal_outputs_would_be_the_only_perfect_ones() -> None:
    """The two views are of different images: without the stopped gradient the mean falls below 0.65."""
    method = make_method("simsiam")
    optimizer, spreads = make_sgd(method, lr=0.1), []
    for step in range(300):
        result = method(make_batch("simsiam", step))
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        spreads.append(result.terms["z_std"].item())
    assert sum(spreads[-50:]) / 50 > 0.8
