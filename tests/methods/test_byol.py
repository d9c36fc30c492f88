import copy
import math

import pytest
import torch
from tiny_problem import ACTIVE, make_batch, make_method, make_sgd
from torch import Tensor

from eke.methods.byol import rising_decay

VIEWS = ("view_1", "view_2")
STEPS = 5


def images(step: int = 0) -> list[Tensor]:
    return [make_batch("byol", step).u[view].pixels for view in VIEWS]


def distance(p: Tensor, z: Tensor) -> Tensor:
    """The paper's equation 2, one image at a time."""
    pairs = zip(p, z, strict=True)
    return sum(((a / a.norm() - b / b.norm()).pow(2).sum() for a, b in pairs), torch.zeros(())) / len(p)


def through(network, projector, view: Tensor) -> Tensor:
    return projector(network(view).embedding)


class Reference:
    """Online and target networks as the paper has them, each a copy of its own."""

    def __init__(self, method) -> None:
        self.online = torch.nn.ModuleList(copy.deepcopy([method.network, method.projector]))
        self.predictor = copy.deepcopy(method.predictor)
        self.target = copy.deepcopy(self.online)

    def follow(self, step: int, tau_base: float, n_steps: int) -> None:
        tau = 1 - (1 - tau_base) * (math.cos(math.pi * step / n_steps) + 1) / 2
        tau = min(tau, (1 + step) / (10 + step))
        with torch.no_grad():
            for xi, theta in zip(self.target.parameters(), self.online.parameters(), strict=True):
                xi.copy_(tau * xi + (1 - tau) * theta)

    def loss(self, view_1: Tensor, view_2: Tensor) -> Tensor:
        with torch.no_grad():
            target_1, target_2 = (through(*self.target, view) for view in (view_1, view_2))
        p_1, p_2 = (self.predictor(through(*self.online, view)) for view in (view_1, view_2))
        return distance(p_1, target_2) + distance(p_2, target_1)


def test_losses_weights_and_target_equal_a_reference_over_several_steps() -> None:
    method = make_method("byol", ACTIVE["byol"] | {"tau_base": 0.05})  # so that its cosine counts from the start
    reference = Reference(method)
    theirs = torch.nn.ModuleList([reference.online, reference.predictor])
    optimizer, reference_optimizer = make_sgd(method), make_sgd(theirs)
    for step in range(STEPS):
        reference.follow(step, 0.05, 20)
        expected, result = reference.loss(*images(step)), method(make_batch("byol", step))
        assert result.loss.item() == pytest.approx(expected.item(), abs=1e-9)
        for each, loss in ((optimizer, result.loss), (reference_optimizer, expected)):
            each.zero_grad()
            loss.backward()
            each.step()
    pairs = {
        "online": ([method.network, method.projector, method.predictor], theirs),
        "target": ([method.teacher, method.teacher_projector], reference.target),
    }
    for mine, other in pairs.values():
        for one, two in zip(torch.nn.ModuleList(mine).parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-9)
    moved = zip(method.teacher.parameters(), method.network.parameters(), strict=True)
    assert any((xi - theta).abs().max() > 1e-3 for xi, theta in moved), (
        "a target equal to the online would prove nothing"
    )


@pytest.fixture
def apart():
    """A method in mid-run, whose target is unlike its online network."""
    method = make_method("byol")
    with torch.no_grad():
        for parameter in [*method.teacher.parameters(), *method.teacher_projector.parameters()]:
            parameter.add_(torch.randn_like(parameter))
    return method


@pytest.mark.parametrize("mine", [0, 1])
def test_a_view_is_moved_by_its_prediction_and_never_as_a_target(apart, mine: int) -> None:
    reference, batch = copy.deepcopy(apart), make_batch("byol", 15)
    pixels = batch.u[VIEWS[mine]].pixels.requires_grad_()
    apart(batch).loss.backward()

    teacher, projector = apart.teacher.module.train(), apart.teacher_projector.module.train()
    constant = through(teacher, projector, images(15)[1 - mine])
    assert not constant.requires_grad
    view = images(15)[mine].requires_grad_()
    distance(reference.predictor(through(reference.network, reference.projector, view)), constant).backward()
    assert view.grad.norm() > 1e-4
    torch.testing.assert_close(pixels.grad, view.grad, rtol=0, atol=1e-12)


def test_no_gradient_reaches_the_target(apart) -> None:
    apart(make_batch("byol", 15)).loss.backward()
    assert all(p.grad is None for p in [*apart.teacher.parameters(), *apart.teacher_projector.parameters()])


def test_both_networks_normalize_as_the_method_is_told(apart) -> None:
    view_1, view_2 = images(15)
    results = {}
    for training in (True, False):
        method = copy.deepcopy(apart).train(training)
        loss = method(make_batch("byol", 15)).loss
        target = (method.teacher.module.train(training), method.teacher_projector.module.train(training))
        online = copy.deepcopy(apart).train(training)
        with torch.no_grad():
            p_1, p_2 = (online.predictor(through(online.network, online.projector, view)) for view in (view_1, view_2))
            expected = distance(p_1, through(*target, view_2)) + distance(p_2, through(*target, view_1))
        results[training] = loss.item()
        assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    assert results[True] != pytest.approx(results[False], rel=0.01)


def test_the_targets_decay_rises_from_its_start_to_1_along_half_a_cosine() -> None:
    decays = [rising_decay(step, 1000, 0.9) for step in range(1001)]
    assert decays[0] == pytest.approx(0.9)
    assert decays[500] == pytest.approx(0.95)
    assert decays[250] == pytest.approx(1 - 0.1 * (math.sqrt(0.5) + 1) / 2)
    assert decays[1000] == pytest.approx(1)
    assert decays == sorted(decays)


def test_the_target_starts_as_the_online_network_and_follows_it_after_each_step() -> None:
    method = make_method("byol", ACTIVE["byol"] | {"tau_base": 0.996})
    first = method.projector[0].weight.detach().clone()
    method(make_batch("byol", 0))
    torch.testing.assert_close(method.teacher_projector.module[0].weight, first)
    with torch.no_grad():
        method.projector[0].weight.add_(1)
    method(make_batch("byol", 9))
    torch.testing.assert_close(method.teacher_projector.module[0].weight, first + (1 - 10 / 19))


def test_spread_is_that_of_the_online_projections() -> None:
    method = make_method("byol")
    z = through(copy.deepcopy(method.network), copy.deepcopy(method.projector), images()[0])
    unit = z / z.norm(dim=1, keepdim=True)
    expected = (unit.std(0, correction=0).mean() * 16**0.5).item()
    assert method(make_batch("byol", 0)).terms["z_std"].item() == pytest.approx(expected)


def test_widths_are_the_papers() -> None:
    method = make_method("byol", {})
    widths = {
        head: [tuple(p.shape)[::-1] for p in getattr(method, head).parameters() if p.ndim == 2]
        for head in ("projector", "predictor")
    }
    assert widths == {"projector": [(6, 4096), (4096, 256)], "predictor": [(256, 4096), (4096, 256)]}
