import copy
import math
from typing import Any

import pytest
import torch
from tiny_problem import ACTIVE, make_batch, make_method, make_sgd
from torch import Tensor, nn

from eke.engine.optim import OptimOptions, make_optimizer
from eke.errors import ConfigError

U, K = 16, 6


def method_with(**options: Any) -> Any:
    return make_method("swav", ACTIVE["swav"] | options)


class Reference:
    """SwAV from the paper's formulas: one image and one prototype at a time, queues as lists, the newest first."""

    def __init__(self, method: Any) -> None:
        self.module = nn.ModuleDict(copy.deepcopy({"network": method.network, "projector": method.projector}))
        self.module.register_parameter("prototypes", copy.deepcopy(method.prototypes))
        self.config = method.config
        self.queues: list[list[list[float]]] = [[], []]

    def loss(self, step: int, n_steps: int) -> Tensor:
        prototypes = self.module.prototypes
        with torch.no_grad():
            for c in prototypes:
                c.div_(c.norm())
        batch = make_batch("swav", step)
        views = torch.cat([batch.u["view_1"].pixels, batch.u["view_2"].pixels])
        outputs = self.module["projector"](self.module["network"](views).embedding)
        z = [[row / row.norm() for row in outputs[:U]], [row / row.norm() for row in outputs[U:]]]
        scores = [[[(row * c).sum() for c in prototypes] for row in view] for view in z]
        codes = []
        for v in (0, 1):
            queue = self.queues[v] if step >= self.config.queue_start_rate * n_steps else []
            if len(queue) < self.config.queue_size:
                queue = []
            past = [[sum(a * b for a, b in zip(row, c, strict=True)) for c in prototypes.tolist()] for row in queue]
            codes.append(self.share([[s.item() for s in row] for row in scores[v]] + past))
            self.queues[v] = ([row.tolist() for row in reversed(z[v])] + self.queues[v])[: self.config.queue_size]
        total: Tensor = torch.zeros((), dtype=torch.float64)
        for v in (0, 1):
            for b in range(U):
                exponentials = [torch.exp(s / self.config.temperature) for s in scores[1 - v][b]]
                for k in range(K):
                    total = total - codes[v][b][k] * torch.log(exponentials[k] / sum(exponentials)) / U / 2
        self.entropy = -sum(q * math.log(q) for view in codes for row in view[:U] for q in row) / (2 * U)
        return total

    def share(self, scores: list[list[float]]) -> list[list[float]]:
        q = [[math.exp(s / self.config.epsilon) for s in row] for row in scores]
        for _ in range(self.config.sinkhorn_iterations):
            for k in range(K):
                total = sum(row[k] for row in q)
                for row in q:
                    row[k] /= total
            for row in q:
                row[:] = [value / sum(row) for value in row]
        return q


@pytest.mark.parametrize("freeze_rate", [0.0, 0.15])
def test_losses_weights_and_queues_equal_a_slow_reference_over_several_steps(freeze_rate: float) -> None:
    method = method_with(queue_start_rate=0.2, freeze_rate=freeze_rate)  # of 20 steps: from step 4, for 3 steps
    reference = Reference(method)
    optimizer, reference_optimizer = make_sgd(method), make_sgd(reference.module)
    for step in range(6):
        result, expected = method(make_batch("swav", step)), reference.loss(step, 20)
        assert result.loss.item() == pytest.approx(expected.item(), abs=1e-9), step
        assert result.terms["code_entropy"].item() == pytest.approx(reference.entropy, abs=1e-9)
        for each, loss in ((optimizer, result.loss), (reference_optimizer, expected)):
            each.zero_grad()
            loss.backward()
        if step < freeze_rate * 20:
            reference.module.prototypes.grad = None
        optimizer.step()
        reference_optimizer.step()
    for name, theirs in reference.module.state_dict().items():
        torch.testing.assert_close(method.state_dict()[name], theirs, rtol=0, atol=1e-9, msg=name)
    for view, rows in zip(("view_1", "view_2"), reference.queues, strict=True):
        mine = sorted(method.queue[view].tolist())  # where in the queue a row lies does not count
        torch.testing.assert_close(torch.tensor(mine), torch.tensor(sorted(rows)), rtol=0, atol=1e-9)


def loss_at(step: int, **options: Any) -> float:
    """The loss of step `step` of 20, after as many steps that taught nothing."""
    method = method_with(**options)
    for past in range(step):
        method(make_batch("swav", past))
    return method(make_batch("swav", step)).loss.item()


def test_the_queue_is_used_from_its_start_on_and_only_when_full() -> None:
    def without(step: int) -> Any:
        return pytest.approx(loss_at(step, queue_size=0), abs=1e-12)

    assert loss_at(3, queue_size=16, queue_start_rate=0.2) == without(3)
    assert loss_at(4, queue_size=16, queue_start_rate=0.2) != without(4)
    assert loss_at(2, queue_size=40, queue_start_rate=0.0) == without(2)  # 32 rows have entered
    assert loss_at(3, queue_size=40, queue_start_rate=0.0) != without(3)
    assert loss_at(2, queue_size=32, queue_start_rate=0.0) != without(2)


def test_a_queue_that_holds_less_than_a_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.queue_size = 15 is less than the 16 rows"):
        method_with(queue_size=15)(make_batch("swav", 0))


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_frozen_prototypes_keep_their_direction_and_get_a_gradient_of_zero(name: str) -> None:
    method = method_with(freeze_rate=0.1)  # of 20 steps: the first two
    options = OptimOptions(name=name, lr=0.3, nesterov=False, weight_decay=0.1)  # type: ignore[arg-type]
    optimizer = make_optimizer(method, options)
    start = torch.nn.functional.normalize(method.prototypes.detach(), dim=1)
    for step in range(4):
        method.zero_grad()
        method(make_batch("swav", step)).loss.backward()
        assert (method.prototypes.grad.norm() > 0) == (step >= 2)
        torch.testing.assert_close(method.prototypes.norm(dim=1), torch.ones(K, dtype=torch.float64))
        optimizer.step()
        direction = torch.nn.functional.normalize(method.prototypes.detach(), dim=1)
        assert torch.allclose(direction, start, rtol=0, atol=1e-12) == (step < 2)


def test_both_views_of_every_image_get_a_gradient() -> None:
    method, batch = make_method("swav").eval(), make_batch("swav", 0)
    pixels = [sight.pixels.requires_grad_() for sight in batch.u.values()]
    method(batch).loss.backward()
    for view in pixels:
        assert (view.grad.flatten(1).abs().sum(1) > 0).all()
