"""Which images batch norm averages over, and which of them its running statistics remember."""

import copy
from typing import Any

import pytest
import torch
from tiny_problem import make_batch, make_method
from torch import Tensor

from eke.losses.classification import cross_entropy, probabilities, squared_error
from eke.losses.pseudo_labels import sharpen


def statistics(network: Any) -> Tensor:
    norm = network.body[1]
    return torch.cat([norm.running_mean, norm.running_var, norm.num_batches_tracked[None].to(norm.running_var)])


@pytest.mark.parametrize("name", ["uda", "fixmatch", "flexmatch", "freematch", "softmatch"])
def test_one_forward_normalizes_all_three_parts_together(name: str) -> None:
    method, batch = make_method(name), make_batch(name, 0)
    network = copy.deepcopy(method.network)
    x, weak, strong = batch.x["weak"].pixels, batch.u["weak"].pixels, batch.u["strong"].pixels
    logits = network(torch.cat([x, weak, strong])).logits
    result = method(batch)
    torch.testing.assert_close(statistics(method.network), statistics(network))
    if name != "uda":  # whose labeled loss is annealed
        assert result.terms["loss_x"].item() == pytest.approx(cross_entropy(logits[:8], batch.y).item())


@pytest.mark.parametrize("name", ["supervised", "pseudo_label", "mean_teacher"])
def test_running_statistics_follow_the_labeled_images_only(name: str) -> None:
    method, batch = make_method(name), make_batch(name, 0)
    network = copy.deepcopy(method.network)
    network(batch.x["weak"].pixels)
    method(batch)
    torch.testing.assert_close(statistics(method.network), statistics(network))


def test_student_and_teacher_normalize_with_the_statistics_of_their_own_batch() -> None:
    method, batch = make_method("mean_teacher"), make_batch("mean_teacher", 0)
    network = copy.deepcopy(method.network)  # in the first step the teacher is the student
    target = probabilities(network(batch.u["weak"].pixels).logits)
    student = network(batch.u["weak_2"].pixels).logits
    assert method(batch).terms["loss_u"].item() == pytest.approx(squared_error(student, target).item())


@pytest.mark.parametrize("mu", [1, 2])
def test_mixmatch_deals_like_shares_to_groups_with_statistics_of_their_own(mu: int) -> None:
    options = {"alpha": 1e-4, "ramp_rate": 0.0}  # shares of 1: nothing is mixed
    method, batch = make_method("mixmatch", options), make_batch("mixmatch", 0, mu=mu)
    network = copy.deepcopy(method.network)
    x, u, u_2 = batch.x["weak"].pixels, batch.u["weak"].pixels, batch.u["weak_2"].pixels
    other = copy.deepcopy(network)
    guesses = [probabilities(other(view).logits) for view in (u, u_2)]
    q = sharpen((guesses[0] + guesses[1]) / 2, 0.5)

    # hands[i]: the images of place i, each with its target (a class, or the number of its guess)
    hands = [
        [(x[i], None)] + [(view[i * mu + m], i * mu + m) for view in (u, u_2) for m in range(mu)] for i in range(len(x))
    ]
    n_groups = 1 + 2 * mu
    loss_x: Any = 0.0
    loss_u: Any = 0.0
    for group in range(n_groups):
        dealt = [hands[i][(group + i) % n_groups] for i in range(len(x))]
        logits = network(torch.stack([image for image, _ in dealt])).logits
        if group == 0:
            remembered = statistics(network).clone()
        for i, (_, number) in enumerate(dealt):
            if number is None:
                loss_x = loss_x + cross_entropy(logits[i : i + 1], batch.y[i : i + 1]) / len(x)
            else:
                loss_u = loss_u + squared_error(logits[i : i + 1], q[number : number + 1]) / (2 * len(u))
    result = method(batch)
    assert result.terms["loss_x"].item() == pytest.approx(loss_x.item(), abs=1e-12)
    assert result.terms["loss_u"].item() == pytest.approx(loss_u.item(), abs=1e-12)
    torch.testing.assert_close(statistics(method.network), remembered)
