"""Methods that learn from images with several labels, against references that loop over images and classes."""

import copy
import math
from typing import Any

import pytest
import torch
from tiny_problem import WITH_LABELS, make_batch, make_method
from torch import Tensor

from eke.data.stream import Batch
from eke.losses.kinds import IN_SHARES, YES_OR_NO
from eke.methods import METHODS

K = 4
SEVERAL = sorted(name for name in WITH_LABELS if getattr(METHODS[name], "several_labels", False))


def several(name: str, kind: Any = YES_OR_NO, **options: Any) -> tuple[Any, Batch]:
    """Return a method on a network without batch norm, and a batch whose images have several labels."""
    method = make_method(name, options, batch_norm=False)
    method.network.kind = kind
    if hasattr(method, "teacher"):
        method.teacher.module.kind = kind
    batch = make_batch(name, 0)
    draw = torch.Generator().manual_seed(1)
    return method, batch._replace(y=(torch.rand(len(batch.y), K, generator=draw) < 0.4).long())


def probs_of(network: Any, image: Tensor) -> list[Tensor]:
    return [1 / (1 + torch.exp(-z)) for z in network(image[None]).logits[0]]


def entropy_of(p: Tensor, y: float) -> Tensor:
    return -(y * torch.log(p) + (1 - y) * torch.log(1 - p))


def labeled_loss(network: Any, batch: Batch) -> Any:
    total: Any = 0.0
    for image, y in zip(batch.x["weak"].pixels, batch.y.tolist(), strict=True):
        total = total + sum(entropy_of(p, label) for p, label in zip(probs_of(network, image), y, strict=True)) / K
    return total / len(batch.y)


def test_which_methods_take_several_labels() -> None:
    assert SEVERAL == ["fixmatch", "gradcam_consistency", "harmonize", "mean_teacher", "supervised"]


def test_supervised() -> None:
    method, batch = several("supervised")
    expected = labeled_loss(method.network, batch).item()
    assert method(batch).loss.item() == pytest.approx(expected, rel=1e-9)


def test_supervised_in_shares() -> None:
    method, batch = several("supervised", IN_SHARES)
    total = 0.0
    for image, y in zip(batch.x["weak"].pixels, batch.y.tolist(), strict=True):
        exponentials = [math.exp(z) for z in method.network(image[None]).logits[0].tolist()]
        shares = [math.log(e / sum(exponentials)) for e in exponentials]
        total -= sum(label * share for label, share in zip(y, shares, strict=True)) / max(1, sum(y))
    assert method(batch).loss.item() == pytest.approx(total / len(batch.y), rel=1e-9)


def test_fixmatch() -> None:
    tau = 0.8
    method, batch = several("fixmatch", tau=tau)
    total: Any = 0.0
    n_used = 0
    for weak, strong in zip(batch.u["weak"].pixels, batch.u["strong"].pixels, strict=True):
        guessed = [p.item() for p in probs_of(method.network, weak)]
        for p, g in zip(probs_of(method.network, strong), guessed, strict=True):
            if max(g, 1 - g) >= tau:
                total = total + entropy_of(p, float(g >= 0.5))
                n_used += 1
    n = len(batch.u["weak"].pixels) * K
    result = method(batch)
    assert 0 < n_used < n, "some decisions are sure and some are not"
    assert float(result.terms["mask_rate"]) == pytest.approx(n_used / n)
    assert float(result.terms["loss_u"]) == pytest.approx(total.item() / n, rel=1e-9)
    assert float(result.terms["loss_x"]) == pytest.approx(labeled_loss(method.network, batch).item(), rel=1e-9)
    assert result.pseudo.label.shape == result.pseudo.mask.shape == (len(batch.u["weak"].pixels), K)


def test_mean_teacher() -> None:
    method, batch = several("mean_teacher", ramp_rate=0.0)
    teacher = copy.deepcopy(method.network)
    total = 0.0
    for one, two in zip(batch.u["weak"].pixels, batch.u["weak_2"].pixels, strict=True):
        pairs = zip(probs_of(teacher, one), probs_of(method.network, two), strict=True)
        total += sum((a.item() - b.item()) ** 2 for a, b in pairs) / K
    assert float(method(batch).terms["loss_u"]) == pytest.approx(total / len(batch.u["weak"].pixels), rel=1e-9)


@pytest.mark.parametrize("pseudo_label", ["soft", "hard", "l2"])
def test_gradcam_consistency(pseudo_label: str) -> None:
    method, batch = several("gradcam_consistency", gamma=0.0, pseudo_label=pseudo_label)
    total: Any = 0.0
    for original, augmented in zip(batch.u["original"].pixels, batch.u["augmented"].pixels, strict=True):
        guessed = [p.item() for p in probs_of(method.network, original)]
        for p, g in zip(probs_of(method.network, augmented), guessed, strict=True):
            if pseudo_label == "l2":
                total = total + (p - g) ** 2 / K
            else:
                total = total + entropy_of(p, float(g >= 0.5) if pseudo_label == "hard" else g) / K
    n = len(batch.u["original"].pixels)
    assert float(method(batch).terms["loss_u"]) == pytest.approx(total.item() / n, rel=1e-9)


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("kind", [YES_OR_NO, IN_SHARES], ids=lambda kind: kind.name)
def test_the_loss_falls_on_a_fixed_batch(name: str, kind: Any) -> None:
    options = {"strategy": "combined"} if name == "harmonize" else {}
    method, batch = several(name, kind, **options)
    optimizer = torch.optim.Adam(method.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = method(batch).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
