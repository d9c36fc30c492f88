"""Each method with labels against a slow reference from its paper: one image at a time; losses, state and weights.

The network has no batch norm here, so that an image's logits do not depend on its company; what batch norm
sees is tested in test_batch_norm.py. Both sides train for several steps: a wrong gradient would show as well.
CoMatch and SimMatch, which have heads and memories, have their references in files of their own.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny_problem import ACTIVE, WITH_LABELS, make_batch, make_method, make_sgd
from torch import Tensor

from eke.data.stream import Batch
from eke.randomness import mixed_seed, rng

K, STEPS = 4, 5
State = dict[str, Any]
Reference = Callable[[Any, State, Any, Batch], dict[str, Tensor]]


def probs_of(network: Any, image: Tensor) -> list[Tensor]:
    """Class probabilities of one image, as scalars."""
    exponentials = [torch.exp(v) for v in network(image[None]).logits[0]]
    return [e / sum(exponentials) for e in exponentials]


def numbers(probs: list[Tensor]) -> list[float]:
    return [p.item() for p in probs]


def best(probs: list[float]) -> int:
    return max(range(K), key=lambda c: probs[c])


def labeled_loss(network: Any, batch: Batch) -> Any:
    images = batch.x["weak"].pixels
    return sum(-torch.log(probs_of(network, x)[y]) for x, y in zip(images, batch.y, strict=True)) / len(images)


def supervised(network: Any, state: State, options: Any, batch: Batch) -> dict[str, Tensor]:
    return {"loss_x": labeled_loss(network, batch)}


def pseudo_label(network: Any, state: State, options: Any, batch: Batch) -> dict[str, Tensor]:
    total: Any = 0.0
    for u in batch.u["weak"].pixels:
        p = probs_of(network, u)
        c = best(numbers(p))
        if p[c].item() >= options.tau:
            total = total - torch.log(p[c])
    return {"loss_x": labeled_loss(network, batch), "loss_u": total / len(batch.u["weak"].pixels)}


def mean_teacher(network: Any, state: State, options: Any, batch: Batch) -> dict[str, Tensor]:
    if "teacher" not in state:
        state["teacher"] = copy.deepcopy(network)
    with torch.no_grad():
        decay = min(options.teacher_decay, (1 + batch.step) / (10 + batch.step))
        for old, new in zip(state["teacher"].parameters(), network.parameters(), strict=True):
            old.copy_(decay * old + (1 - decay) * new)
    total: Any = 0.0
    for u, u_2 in zip(batch.u["weak"].pixels, batch.u["weak_2"].pixels, strict=True):
        teacher, student = numbers(probs_of(state["teacher"], u)), probs_of(network, u_2)
        total = total + sum((student[c] - teacher[c]) ** 2 for c in range(K)) / K
    return {"loss_x": labeled_loss(network, batch), "loss_u": total / len(batch.u["weak"].pixels)}


def mixmatch(network: Any, state: State, options: Any, batch: Batch) -> dict[str, Tensor]:
    x, u, u_2 = batch.x["weak"].pixels, batch.u["weak"].pixels, batch.u["weak_2"].pixels
    guesses = []
    for one, two in zip(u, u_2, strict=True):
        pairs = zip(numbers(probs_of(network, one)), numbers(probs_of(network, two)), strict=True)
        powers = [((a + b) / 2) ** (1 / options.temperature) for a, b in pairs]
        guesses.append([power / sum(powers) for power in powers])
    images = [*x, *u, *u_2]
    targets = [[float(c == y) for c in range(K)] for y in batch.y.tolist()] + guesses + guesses
    order = torch.randperm(len(images), generator=rng(3, batch.step, "mixmatch")).tolist()
    shares = np.random.default_rng(mixed_seed(3, batch.step, "mixmatch shares")).beta(
        options.alpha, options.alpha, len(images)
    )
    loss_x: Any = 0.0
    loss_u: Any = 0.0
    for i, j in enumerate(order):
        share = float(max(shares[i], 1 - shares[i]))
        p = probs_of(network, share * images[i] + (1 - share) * images[j])
        target = [share * a + (1 - share) * b for a, b in zip(targets[i], targets[j], strict=True)]
        if i < len(x):
            loss_x = loss_x - sum(target[c] * torch.log(p[c]) for c in range(K)) / len(x)
        else:
            loss_u = loss_u + sum((target[c] - p[c]) ** 2 for c in range(K)) / K / (2 * len(u))
    return {"loss_x": loss_x, "loss_u": loss_u}


def uda(network: Any, state: State, options: Any, batch: Batch) -> dict[str, Tensor]:
    eta = 1 / K + batch.step / 20 * (1 - 1 / K)
    kept = []
    for x, y in zip(batch.x["weak"].pixels, batch.y, strict=True):
        p = probs_of(network, x)[y]
        if p.item() <= eta:
            kept.append(-torch.log(p))
    total: Any = 0.0
    for weak, strong in zip(batch.u["weak"].pixels, batch.u["strong"].pixels, strict=True):
        q, p = numbers(probs_of(network, weak)), probs_of(network, strong)
        powers = [v ** (1 / options.temperature) for v in q]
        sharp = [power / sum(powers) for power in powers]
        if max(q) >= options.tau:
            total = total + sum(s * (math.log(s) - torch.log(v)) for s, v in zip(sharp, p, strict=True))
    return {"loss_x": sum(kept) / max(1, len(kept)), "loss_u": total / len(batch.u["weak"].pixels)}  # type: ignore[dict-item]


def strong_loss(network: Any, batch: Batch, weights: list[float], labels: list[int]) -> Any:
    images = batch.u["strong"].pixels
    losses = [w * -torch.log(probs_of(network, u)[c]) for u, w, c in zip(images, weights, labels, strict=True)]
    return sum(losses) / len(images)


def fixmatch(network: Any, state: State, options: Any, batch: Batch) -> dict[str, Tensor]:
    q = [numbers(probs_of(network, u)) for u in batch.u["weak"].pixels]
    mask = [float(max(row) >= options.tau) for row in q]
    loss_u = strong_loss(network, batch, mask, [best(row) for row in q])
    return {"loss_x": labeled_loss(network, batch), "loss_u": loss_u}


def flexmatch(network: Any, state: State, options: Any, batch: Batch) -> dict[str, Tensor]:
    memory = state.setdefault("selected_label", [-1] * 16)
    sigma = [memory.count(c) for c in range(K)]
    beta = [s / max(*sigma, memory.count(-1)) for s in sigma]
    q = [numbers(probs_of(network, u)) for u in batch.u["weak"].pixels]
    labels = [best(row) for row in q]
    mask = [float(max(row) >= options.tau * beta[c] / (2 - beta[c])) for row, c in zip(q, labels, strict=True)]
    for n, row, c in zip(batch.u_index.tolist(), q, labels, strict=True):
        if max(row) >= options.tau:
            memory[n] = c
    return {"loss_x": labeled_loss(network, batch), "loss_u": strong_loss(network, batch, mask, labels)}


def freematch(network: Any, state: State, options: Any, batch: Batch) -> dict[str, Tensor]:
    m = options.momentum
    q = [numbers(probs_of(network, u)) for u in batch.u["weak"].pixels]
    labels, U = [best(row) for row in q], len(q)
    state["tau"] = m * state.get("tau", 1 / K) + (1 - m) * sum(max(row) for row in q) / U
    means, rates = state.get("mean_probs", [1 / K] * K), state.get("label_rates", [1 / K] * K)
    means = [m * means[c] + (1 - m) * sum(row[c] for row in q) / U for c in range(K)]
    rates = [m * rates[c] + (1 - m) * labels.count(c) / U for c in range(K)]
    state["mean_probs"], state["label_rates"] = means, rates
    mask = [float(max(row) >= state["tau"] * means[c] / max(means)) for row, c in zip(q, labels, strict=True)]

    strong = [probs_of(network, u) for u, t in zip(batch.u["strong"].pixels, mask, strict=True) if t]
    found = [best(numbers(row)) for row in strong]
    a = [means[c] / rates[c] for c in range(K)]
    b: list[Any] = []
    for c in range(K):
        p_now = sum(row[c] for row in strong) / len(strong)
        b.append(p_now / (found.count(c) / len(strong)) if c in found else torch.tensor(0.0))
    loss_f = sum(a[c] / sum(a) * torch.log(b[c] / sum(b) + 1e-12) for c in range(K))
    loss_u = strong_loss(network, batch, mask, labels)
    return {"loss_x": labeled_loss(network, batch), "loss_u": loss_u, "loss_f": loss_f}  # type: ignore[dict-item]


def softmatch(network: Any, state: State, options: Any, batch: Batch) -> dict[str, Tensor]:
    m = options.momentum
    q = [numbers(probs_of(network, u)) for u in batch.u["weak"].pixels]
    confidence = [max(row) for row in q]
    mean = sum(confidence) / len(q)
    variance = sum((c - mean) ** 2 for c in confidence) / (len(q) - 1)
    state["mean"] = m * state.get("mean", 1 / K) + (1 - m) * mean
    state["variance"] = m * state.get("variance", 1.0) + (1 - m) * variance
    means = state.get("mean_probs", [1 / K] * K)
    means = state["mean_probs"] = [m * means[c] + (1 - m) * sum(r[c] for r in q) / len(q) for c in range(K)]
    weights = []
    for row in q:
        scaled = [row[c] * (1 / K + 1e-6) / (means[c] + 1e-6) for c in range(K)]
        below = min(max(scaled) / sum(scaled) - state["mean"], 0)
        weights.append(math.exp(-(below**2) / (2 * state["variance"] / options.n_sigma**2)))
    loss_u = strong_loss(network, batch, weights, [best(row) for row in q])
    return {"loss_x": labeled_loss(network, batch), "loss_u": loss_u}


REFERENCES: dict[str, Reference] = {
    "supervised": supervised,
    "pseudo_label": pseudo_label,
    "mean_teacher": mean_teacher,
    "mixmatch": mixmatch,
    "uda": uda,
    "fixmatch": fixmatch,
    "flexmatch": flexmatch,
    "freematch": freematch,
    "softmatch": softmatch,
}


def test_every_method_has_a_reference() -> None:
    assert set(WITH_LABELS) == {*REFERENCES, "comatch", "simmatch", "gradcam_consistency", "harmonize"}


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_a_method_equals_its_slow_reference(name: str) -> None:
    options = dict(ACTIVE[name])
    if "momentum" in options:
        options["momentum"] = 0.5  # else thresholds stay near 1/K and the variance near 1
    if "tau" in options:
        options["tau"] = 0.7
    method = make_method(name, options, batch_norm=False)
    reference = copy.deepcopy(method.network)
    optimizer, reference_optimizer = make_sgd(method, 0.02), make_sgd(reference, 0.02)
    state: State = {}
    rates = []
    for step in range(STEPS):
        batch = make_batch(name, step, B=4)
        result = method(batch)
        terms = REFERENCES[name](reference, state, method.config, batch)
        expected = terms["loss_x"]
        for term, weight in (("loss_u", "lambda_u"), ("loss_f", "lambda_f")):
            expected = expected + getattr(method.config, weight) * terms[term] if term in terms else expected
        for term, value in terms.items():
            assert result.terms[term].item() == pytest.approx(torch.as_tensor(value).item(), abs=1e-10), (
                step,
                term,
            )
        assert result.loss.item() == pytest.approx(expected.item(), abs=1e-10)
        rates.append(result.terms.get("mask_rate", torch.tensor(0.5)).item())
        for each, loss in ((optimizer, result.loss), (reference_optimizer, expected)):
            each.zero_grad()
            loss.backward()
            each.step()
    for mine, theirs in zip(method.network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)
    for key, value in state.items():
        if key == "teacher":
            for mine, theirs in zip(method.teacher.module.parameters(), value.parameters(), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)
        else:
            expected_state = torch.tensor(value, dtype=getattr(method, key).dtype)
            torch.testing.assert_close(getattr(method, key), expected_state, rtol=0, atol=1e-9)
    assert 0 < sum(rates) < STEPS, "a mask that is always 0 or always 1 would prove nothing"
