"""Where gradients flow and where the papers stop them."""

from typing import Any

import pytest
import torch
from tiny_problem import ACTIVE, UNLABELED_WEIGHTS, WITH_LABELS, make_batch, make_method
from torch import Tensor

TERMS = [(name, weight) for name in WITH_LABELS for weight in UNLABELED_WEIGHTS.get(name, ("lambda_u",))]
STRONG = ["uda", "fixmatch", "flexmatch", "freematch", "softmatch"]


def gradient(name: str, options: dict[str, Any]) -> Tensor:
    method = make_method(name, options)
    method(make_batch(name, 3)).loss.backward()
    return torch.cat([p.grad.flatten() for p in method.network.parameters()])


@pytest.mark.parametrize(("name", "weight"), TERMS)
def test_each_term_moves_the_student_in_proportion_to_its_weight(name: str, weight: str) -> None:
    without, once, twice = (gradient(name, ACTIVE[name] | {weight: w}) for w in (0.0, 1.0, 2.0))
    assert (once - without).norm() > 1e-4
    torch.testing.assert_close(twice - without, 2 * (once - without), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", WITH_LABELS)
def test_the_labeled_term_moves_the_student(name: str) -> None:
    silent = dict.fromkeys(UNLABELED_WEIGHTS.get(name, ("lambda_u",)), 0.0)
    assert gradient(name, ACTIVE[name] | silent).norm() > 1e-4


def trusting(name: str) -> dict[str, Any]:
    """Options under which some masks are 0 and some 1 in eval mode, where predictions are less confident."""
    return ACTIVE[name] | ({"tau": 0.3} if "tau" in ACTIVE[name] else {})


def image_gradients(name: str) -> dict[str, Tensor]:
    """Gradient of the loss by each unlabeled view; batch norm couples no images in eval mode."""
    method = make_method(name, trusting(name)).eval()
    batch = make_batch(name, 3)
    pixels = {view: sight.pixels.requires_grad_() for view, sight in batch.u.items()}
    method(batch).loss.backward()
    return {view: torch.zeros_like(each) if each.grad is None else each.grad for view, each in pixels.items()}


@pytest.mark.parametrize("name", [*STRONG, "comatch", "simmatch"])
def test_no_gradient_passes_through_the_weak_view_that_makes_the_target(name: str) -> None:
    by_view = image_gradients(name)
    assert by_view["weak"].abs().sum() == 0
    assert by_view["strong"].abs().sum() > 0


def test_no_gradient_passes_through_the_teacher() -> None:
    by_view = image_gradients("mean_teacher")
    assert by_view["weak"].abs().sum() == 0
    assert by_view["weak_2"].abs().sum() > 0


@pytest.mark.parametrize("name", STRONG)
def test_images_outside_the_mask_have_no_gradient(name: str) -> None:
    method = make_method(name, trusting(name)).eval()
    batch = make_batch(name, 3)
    pixels = batch.u["strong"].pixels.requires_grad_()
    result = method(batch)
    result.loss.backward()
    weight = result.pseudo.mask
    assert weight.sum() > 0
    assert pixels.grad is not None
    assert (pixels.grad.flatten(1).abs().sum(1) > 0).equal(weight > 0)


def test_the_teacher_follows_the_student_of_the_step_before() -> None:
    method = make_method("mean_teacher")
    first = method.network.head.weight.detach().clone()
    method(make_batch("mean_teacher", 0))
    torch.testing.assert_close(method.teacher.module.head.weight, first)  # of equal weights, the average is they
    with torch.no_grad():
        method.network.head.weight.add_(1)
    method(make_batch("mean_teacher", 9))
    torch.testing.assert_close(method.teacher.module.head.weight, first + 0.8)
