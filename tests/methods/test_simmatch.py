"""SimMatch against a slow reference, one image and one pair at a time, in both published forms."""

import copy
import math
from typing import Any

import pytest
import torch
from tiny_problem import make_batch, make_method, make_sgd
from torch import Tensor

from eke.augment.presets import PRESETS
from eke.data.stream import Batch
from eke.methods.simmatch import SimMatch, last_places
from eke.tasks.options import method_options, resolve

K, STEPS = 4, 6
CIFAR: dict[str, Any] = {
    "tau": 0.55,
    "temperature": 0.3,
    "alpha": 0.7,
    "da_window": 3,
    "projection_width": 5,
    "bank_momentum": 0.6,
}
IMAGENET: dict[str, Any] = CIFAR | {
    "lambda_u": 3.0,
    "lambda_in": 2.0,
    "start_rate": 0.1,
    "teacher_decay": 0.4,
    "bank_momentum": 0.0,
}
FORMS = pytest.mark.parametrize("options", [CIFAR, IMAGENET], ids=["cifar", "imagenet"])


def softmax(scores: list[Any]) -> list[Any]:
    exponentials = [s.exp() if isinstance(s, Tensor) else math.exp(s) for s in scores]
    return [e / sum(exponentials) for e in exponentials]


def unit(z: list[float]) -> list[float]:
    length = math.sqrt(sum(v * v for v in z))
    return [v / length for v in z]


class Reference:
    """The paper's equations: a dictionary of labeled images instead of a bank, sums instead of products."""

    def __init__(self, method: SimMatch) -> None:
        self.options: Any = method.config
        self.network, self.head = copy.deepcopy(method.network), copy.deepcopy(method.projection)
        self.teacher = copy.deepcopy(torch.nn.ModuleList([self.network, self.head])).requires_grad_(False)
        self.means: list[list[float]] = []
        self.bank: dict[int, list[float]] = {}
        self.label: dict[int, int] = {}

    def parameters(self) -> list[Tensor]:
        return [*self.network.parameters(), *self.head.parameters()]

    def see(self, network: Any, head: Any, image: Tensor) -> tuple[list[Tensor], Tensor]:
        outputs = network(image[None])
        h = head(outputs.embedding)[0]
        return softmax(list(outputs.logits[0])), h / h.square().sum().sqrt()

    def __call__(self, batch: Batch) -> tuple[Any, dict[str, Any]]:
        o, (network, head) = self.options, self.teacher
        if o.teacher_decay is None:
            network, head = self.network, self.head
        else:
            decay = min(o.teacher_decay, (1 + batch.step) / (10 + batch.step))
            for old, new in zip(self.teacher.parameters(), self.parameters(), strict=True):
                old.copy_(decay * old + (1 - decay) * new.detach())
        x, U = batch.x["weak"].pixels, len(batch.u["weak"].pixels)
        before = dict(self.bank)
        for image, i, y in zip(x, batch.x_index.tolist(), batch.y.tolist(), strict=True):
            z = self.see(network, head, image)[1].tolist()
            if i in before:
                z = unit([o.bank_momentum * a + (1 - o.bank_momentum) * b for a, b in zip(before[i], z, strict=True)])
            self.bank[i], self.label[i] = z, y
        weak = [self.see(network, head, image) for image in batch.u["weak"].pixels]
        strong = [self.see(self.network, self.head, image) for image in batch.u["strong"].pixels]

        raw = [[v.item() for v in probs] for probs, _ in weak]
        self.means = [*self.means, [sum(row[c] for row in raw) / U for c in range(K)]][-o.da_window :]
        average = [sum(mean[c] for mean in self.means) / len(self.means) for c in range(K)]
        started = batch.step >= o.start_rate * 20
        loss_u: Any = 0.0
        loss_in: Any = 0.0
        n_kept = 0
        for b in range(U):
            scaled = [raw[b][c] / (average[c] + 1e-6) for c in range(K)]
            p = [s / sum(scaled) for s in scaled]
            z = weak[b][1].tolist()
            near = softmax(
                [sum(a * v for a, v in zip(z, z_i, strict=True)) / o.temperature for z_i in self.bank.values()]
            )
            seen = dict(zip(self.bank, near, strict=True))
            classes = [sum(s for i, s in seen.items() if self.label[i] == c) for c in range(K)]
            q = [o.alpha * p[c] + (1 - o.alpha) * classes[c] for c in range(K)] if started else p
            if max(q) >= o.tau:
                n_kept += 1
                loss_u = loss_u - sum(q[c] * strong[b][0][c].log() for c in range(K)) / U
            weighted = {i: s * p[self.label[i]] for i, s in seen.items()}
            student = softmax(
                [
                    (strong[b][1] * torch.tensor(z_i, dtype=torch.float64)).sum() / o.temperature
                    for z_i in self.bank.values()
                ]
            )
            loss_in = (
                loss_in
                - sum(weighted[i] / sum(weighted.values()) * s.log() for i, s in zip(self.bank, student, strict=True))
                / U
            )
        loss_x = sum(-self.see(self.network, self.head, i)[0][y].log() for i, y in zip(x, batch.y, strict=True)) / len(
            x
        )
        terms = {"loss_x": loss_x, "loss_u": loss_u, "loss_in": loss_in, "mask_rate": n_kept / U}
        return loss_x + o.lambda_u * loss_u + started * o.lambda_in * loss_in, terms


@FORMS
def test_it_equals_the_slow_reference_while_its_bank_fills(options: dict[str, Any]) -> None:
    method = make_method("simmatch", options, batch_norm=False)
    reference = Reference(method)
    mine = make_sgd(method, 0.02)
    theirs = torch.optim.SGD(reference.parameters(), lr=0.02, momentum=0.9)
    rates = []
    for step in range(STEPS):
        batch = make_batch("simmatch", step, B=4)
        if step == 2:
            batch.x_index[3] = batch.x_index[0]  # twice in one batch: the later place counts
        result = method(batch)
        loss, terms = reference(batch)
        for name, value in terms.items():
            assert result.terms[name].item() == pytest.approx(torch.as_tensor(value).item(), abs=1e-9), (step, name)
        assert result.loss.item() == pytest.approx(loss.item(), abs=1e-9), step
        rates.append(terms["mask_rate"])
        for optimizer, each in ((mine, result.loss), (theirs, loss)):
            optimizer.zero_grad()
            each.backward()
            optimizer.step()
    for a, b in zip(
        [*method.network.parameters(), *method.projection.parameters()], reference.parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    for i in range(30):
        assert method.bank_label[i].item() == reference.label.get(i, -1)
        expected = reference.bank.get(i, [0.0] * 5)
        torch.testing.assert_close(method.bank[i], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)
    assert 4 < len(reference.bank) < 4 * STEPS, "no image was seen twice"
    assert 0 < sum(rates) < STEPS, "a mask that is always 0 or always 1 would prove nothing"


@pytest.mark.parametrize(("index", "places"), [([7, 4, 7], [2, 1, 2]), ([0, 0, 0], [2, 2, 2]), ([2, 1, 0], [0, 1, 2])])
def test_all_places_of_an_image_write_what_the_last_one_saw(index: list[int], places: list[int]) -> None:
    assert last_places(torch.tensor(index), 8).tolist() == places


@FORMS
def test_the_strong_view_alone_has_a_gradient_from_the_similarities(options: dict[str, Any]) -> None:
    """In eval mode batch norm couples no images."""
    method = make_method("simmatch", options | {"lambda_u": 0.0, "start_rate": 0.0}).eval()
    batch = make_batch("simmatch", 3)
    pixels = {name: view.pixels.requires_grad_() for name, view in batch.u.items()}
    method(batch).loss.backward()
    assert pixels["weak"].grad is None or pixels["weak"].grad.abs().sum() == 0
    assert pixels["strong"].grad is not None
    assert (pixels["strong"].grad.flatten(1).abs().sum(1) > 0).all()


def test_the_bank_gets_no_gradient_through_the_labeled_images() -> None:
    """Their only gradient is that of their own cross entropy."""
    gradients = []
    for lambda_in in (0.0, 5.0):
        method = make_method("simmatch", CIFAR | {"lambda_u": 0.0, "lambda_in": lambda_in}).eval()
        batch = make_batch("simmatch", 3)
        pixels = batch.x["weak"].pixels.requires_grad_()
        method(batch).loss.backward()
        gradients.append(pixels.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_the_teacher_normalizes_with_its_batch_and_keeps_the_networks_statistics() -> None:
    method = make_method("simmatch", IMAGENET)
    before = method.network.body[1].running_mean.clone()
    method(make_batch("simmatch", 0))
    after, taught = method.network.body[1].running_mean, method.teacher.module.body[1]
    assert not torch.equal(after, before)
    assert torch.equal(taught.running_mean, before)  # copied at the beginning, before the network's forward
    assert taught.training


def test_presets_have_their_sources_values_and_known_views() -> None:
    options = resolve("simmatch/imagenet", {"source": "digits"})
    own: Any = method_options(options)
    values = (own.tau, own.alpha, own.temperature, own.lambda_u, own.lambda_in, own.da_window, own.teacher_decay)
    assert (options.batch.labeled, options.batch.mu, *values) == (64, 5, 0.7, 0.9, 0.1, 10, 5, 256, 0.999)
    assert set(options.views.values()) <= set(PRESETS)
    assert resolve("simmatch/cifar", {"source": "digits"}) == resolve("simmatch", {"source": "digits"})
