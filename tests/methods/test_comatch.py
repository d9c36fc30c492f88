"""CoMatch against a slow reference, one image and one pair at a time, in both published forms."""

import copy
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_problem import make_batch, make_method, make_sgd, train
from torch import Tensor

from eke.augment.presets import PRESETS
from eke.data.stream import Batch
from eke.errors import ConfigError
from eke.methods.comatch import CoMatch
from eke.tasks.options import method_options, resolve

K, STEPS = 4, 7
CIFAR: dict[str, Any] = {
    "tau": 0.6,
    "graph_tau": 0.4,
    "temperature": 0.3,
    "alpha": 0.7,
    "da_window": 3,
    "memory_size": 30,
    "projection_width": 5,
}
IMAGENET: dict[str, Any] = CIFAR | {
    "lambda_cls": 3.0,
    "lambda_ctr": 2.0,
    "ramp_rate": 0.2,
    "smoothing_start_rate": 0.25,
    "teacher_decay": 0.4,
    "projection_slope": 0.0,
}
FORMS = pytest.mark.parametrize("options", [CIFAR, IMAGENET], ids=["cifar", "imagenet"])


def softmax(scores: list[Any]) -> list[Any]:
    exponentials = [s.exp() if isinstance(s, Tensor) else math.exp(s) for s in scores]
    return [e / sum(exponentials) for e in exponentials]


def numbers(vector: Any) -> list[float]:
    return [v.item() for v in vector]


def dot(a: Any, b: Any) -> Any:
    return sum(x * y for x, y in zip(a, b, strict=True))


class Reference:
    """The paper's equations: lists of the last images instead of rings, sums over pairs instead of products."""

    def __init__(self, method: CoMatch) -> None:
        self.options: Any = method.config
        self.network, self.head = copy.deepcopy(method.network), copy.deepcopy(method.projection)
        self.teacher = copy.deepcopy(torch.nn.ModuleList([self.network, self.head])).requires_grad_(False)
        self.means: list[list[float]] = []
        self.memory: list[tuple[list[float], list[float]]] = []
        self.columns: list[tuple[Any, list[float]]] = []

    def parameters(self) -> list[Tensor]:
        return [*self.network.parameters(), *self.head.parameters()]

    def see(self, network: Any, head: Any, image: Tensor) -> tuple[list[Tensor], Tensor]:
        outputs = network(image[None])
        h = head(outputs.embedding)[0]
        return softmax(list(outputs.logits[0])), h / h.square().sum().sqrt()

    def follow(self, step: int) -> None:
        decay = min(self.options.teacher_decay, (1 + step) / (10 + step))
        for old, new in zip(self.teacher.parameters(), self.parameters(), strict=True):
            old.copy_(decay * old + (1 - decay) * new.detach())

    def __call__(self, batch: Batch) -> tuple[Any, dict[str, Any]]:
        o, (network, head) = self.options, self.teacher
        if o.teacher_decay is None:
            network, head = self.network, self.head
        else:
            self.follow(batch.step)
        x, views = batch.x["weak"].pixels, {name: view.pixels for name, view in batch.u.items()}
        U = len(views["weak"])
        weak = [self.see(network, head, image) for image in views["weak"]]
        strong = [self.see(self.network, self.head, image) for image in views["strong"]]
        strong_2 = [self.see(network, head, image) for image in views["strong_2"]]

        raw = [numbers(probs) for probs, _ in weak]
        self.means = [*self.means, [sum(row[c] for row in raw) / U for c in range(K)]][-o.da_window :]
        average = [sum(mean[c] for mean in self.means) / len(self.means) for c in range(K)]
        p = []
        for row in raw:
            scaled = [row[c] / (average[c] + 1e-6) for c in range(K)]
            p.append([s / sum(scaled) for s in scaled])

        q = p
        if len(self.memory) == o.memory_size and batch.step >= o.smoothing_start_rate * 20:
            q = []
            for b in range(U):
                z = numbers(weak[b][1])
                a = softmax([dot(z, z_k) / o.temperature for z_k, _ in self.memory])
                near = [dot(a, [p_k[c] for _, p_k in self.memory]) for c in range(K)]
                q.append([o.alpha * p[b][c] + (1 - o.alpha) * near[c] for c in range(K)])
        for image, y in zip(x, batch.y.tolist(), strict=True):
            self.memory.append((numbers(self.see(network, head, image)[1]), [float(c == y) for c in range(K)]))
        self.memory += [(numbers(weak[b][1]), p[b]) for b in range(U)]
        self.memory = self.memory[-o.memory_size :]

        loss_x = sum(-self.see(self.network, self.head, i)[0][y].log() for i, y in zip(x, batch.y, strict=True)) / len(
            x
        )
        mask = [max(row) >= o.tau for row in q]
        ce = [-dot(q[b], [v.log() for v in strong[b][0]]) for b in range(U)]
        loss_u = sum(m * each for m, each in zip(mask, ce, strict=True)) / U

        new = [(strong_2[b][1], q[b]) for b in range(U)]
        self.columns = new if o.teacher_decay is None else [*self.columns, *new][-o.memory_size :]
        first = len(self.columns) - U
        loss_ctr: Any = 0.0
        n_edges = 0
        for b in range(U):
            weights = []
            for j, (_, q_j) in enumerate(self.columns):
                agreement = dot(q[b], q_j)
                weights.append(1.0 if j == first + b else agreement if agreement >= o.graph_tau else 0.0)
            n_edges += sum(w > 0 for w in weights) - 1
            s = softmax([(strong[b][1] * z_j).sum() / o.temperature for z_j, _ in self.columns])
            loss_ctr = loss_ctr - sum(w / sum(weights) * s_j.log() for w, s_j in zip(weights, s, strict=True)) / U
        ramp = min(1.0, batch.step / (o.ramp_rate * 20)) if o.ramp_rate else 1.0
        terms = {
            "loss_x": loss_x,
            "loss_u": loss_u,
            "loss_ctr": loss_ctr,
            "mask_rate": sum(mask) / U,
            "graph_degree": n_edges / U,
        }
        return loss_x + o.lambda_cls * loss_u + ramp * o.lambda_ctr * loss_ctr, terms


@FORMS
def test_it_equals_the_slow_reference_while_its_memory_fills_and_wraps(options: dict[str, Any]) -> None:
    method = make_method("comatch", options, batch_norm=False)
    reference = Reference(method)
    mine = make_sgd(method, 0.02)
    theirs = torch.optim.SGD(reference.parameters(), lr=0.02, momentum=0.9)
    rates, edges = [], []
    for step in range(STEPS):
        batch = make_batch("comatch", step, B=4)
        result = method(batch)
        loss, terms = reference(batch)
        for name, value in terms.items():
            assert result.terms[name].item() == pytest.approx(torch.as_tensor(value).item(), abs=1e-9), (step, name)
        assert result.loss.item() == pytest.approx(loss.item(), abs=1e-9), step
        rates.append(terms["mask_rate"])
        edges.append(terms["graph_degree"] / (len(reference.columns) - 1))
        for optimizer, each in ((mine, result.loss), (theirs, loss)):
            optimizer.zero_grad()
            each.backward()
            optimizer.step()
    for a, b in zip(
        [*method.network.parameters(), *method.projection.parameters()], reference.parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    held = torch.cat([method.memory["embedding"], method.memory["probs"]], 1)
    expected = torch.tensor([[*z, *p] for z, p in reference.memory], dtype=torch.float64)
    newest = (method.memory.n_pushed - 1).item() % 30
    torch.testing.assert_close(held.roll(29 - newest, 0), expected, rtol=0, atol=1e-9)
    assert 0 < sum(rates) < STEPS, "a mask that is always 0 or always 1 would prove nothing"
    assert 0 < sum(edges) < STEPS, "a graph without edges, or with all, would prove nothing"


@pytest.mark.parametrize(("slope", "width"), [(0.1, 64), (0.0, 128)])
def test_the_projection_is_two_layers_with_the_forms_activation(slope: float, width: int) -> None:
    head = make_method("comatch", {"projection_slope": slope, "projection_width": width}).projection
    first, second = (layer for layer in head if isinstance(layer, torch.nn.Linear))
    h = torch.randn(3, 6, dtype=torch.float64)
    hidden = h @ first.weight.T + first.bias
    expected = torch.where(hidden > 0, hidden, slope * hidden) @ second.weight.T + second.bias
    assert expected.shape == (3, width)
    torch.testing.assert_close(head(h), expected, rtol=0, atol=1e-12)


@FORMS
def test_smoothing_waits_for_the_memory_and_the_start(options: dict[str, Any]) -> None:
    """Up to then alpha changes nothing; without thresholds every pseudo-label counts."""
    options = options | {"tau": 0.0, "graph_tau": 0.0}
    sharp, smooth = (make_method("comatch", options | {"alpha": alpha}).eval() for alpha in (1.0, 0.2))
    differs = []
    for step in range(STEPS):  # 12 of 30 rows a step: full before step 3; 0.25 of 20 steps: step 5
        batch = make_batch("comatch", step, B=4)
        differs.append(sharp(batch).loss.item() != smooth(batch).loss.item())
    start = 5 if "teacher_decay" in options else 3
    assert differs == [False] * start + [True] * (STEPS - start)


def view_gradients(options: dict[str, Any]) -> dict[str, float]:
    """Size of the gradient of the contrastive loss alone, by view; in eval mode batch norm couples no images."""
    only = {"lambda_cls": 0.0, "lambda_ctr": 1.0, "ramp_rate": 0.0}
    method, batch = make_method("comatch", options | only).eval(), make_batch("comatch", 3)
    pixels = {name: view.pixels.requires_grad_() for name, view in batch.u.items()}
    method(batch).loss.backward()
    return {name: 0.0 if each.grad is None else each.grad.abs().sum().item() for name, each in pixels.items()}


def test_the_second_strong_view_has_a_gradient_only_without_a_teacher() -> None:
    live, taught = view_gradients(CIFAR), view_gradients(IMAGENET)
    assert live["strong"] > 0
    assert live["strong_2"] > 0
    assert taught["strong"] > 0
    assert taught["weak"] == taught["strong_2"] == live["weak"] == 0


def test_teacher_and_queues_get_no_gradient_and_the_projection_does() -> None:
    method = make_method("comatch", IMAGENET | {"ramp_rate": 0.0})
    method(make_batch("comatch", 0)).loss.backward()
    assert all(p.grad is None for p in [*method.teacher.parameters(), *method.teacher_projection.parameters()])
    assert all(p.grad.abs().sum() > 0 for p in method.projection.parameters())
    assert not any(buffer.requires_grad for buffer in method.buffers())


def test_the_teacher_normalizes_with_its_batch_and_keeps_the_networks_statistics() -> None:
    method = make_method("comatch", IMAGENET)
    before = method.network.body[1].running_mean.clone()
    method(make_batch("comatch", 0))
    after, taught = method.network.body[1].running_mean, method.teacher.module.body[1]
    assert not torch.equal(after, before)
    assert torch.equal(taught.running_mean, before)  # copied at the beginning, before the network's forward
    assert taught.training


def test_the_form_with_a_teacher_resumes_bit_exactly() -> None:
    whole = make_method("comatch", IMAGENET)
    expected = train(whole, "comatch", 0, 8, make_sgd(whole))
    stopped = make_method("comatch", IMAGENET)
    optimizer = make_sgd(stopped)
    first = train(stopped, "comatch", 0, 4, optimizer)
    resumed = make_method("comatch", IMAGENET)
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    goes_on = make_sgd(resumed)
    goes_on.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert first + train(resumed, "comatch", 4, 8, goes_on) == expected
    final, reached = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(final[key], reached[key]) for key in final)


def test_the_form_with_a_teacher_depends_on_no_value() -> None:
    """On the meta device reading a value raises."""
    method, batch = make_method("comatch", IMAGENET).to("meta"), make_batch("comatch", 0)
    x, u = (
        {name: view._replace(pixels=view.pixels.to("meta")) for name, view in side.items()}
        for side in (batch.x, batch.u)
    )
    result = method(batch._replace(x=x, u=u, y=batch.y.to("meta")))
    result.loss.backward()
    assert all(term.is_meta for term in result.terms.values())


@FORMS
def test_a_memory_smaller_than_a_batch_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"method\.memory_size = 23 .* 24 rows"):
        make_method("comatch", options | {"memory_size": 23})(make_batch("comatch", 0))
    make_method("comatch", options | {"memory_size": 24})(make_batch("comatch", 0))


# He, Jin and Wan, table 1: B, mu, lambda_cls, alpha, K, t, tau, T, lambda_ctr
TABLE_1 = {
    "report-96px": (64, 4, 10, 0.9, 30000, 0.1, 0.55, 0.25, 5),
    "report-96px-7.5": (64, 4, 10, 0.9, 30000, 0.1, 0.52, 0.22, 3),
    "imagenet": (160, 4, 10, 0.9, 30000, 0.1, 0.5, 0.2, 2),
    "cifar": (64, 7, 1, 0.9, 2560, 0.2, 0.95, 0.8, 1),
}


@pytest.mark.parametrize("preset", sorted(CoMatch.presets))
def test_presets_have_their_sources_values_and_known_views(preset: str) -> None:
    options = resolve(f"comatch/{preset}", {"source": "digits"})
    own: Any = method_options(options)
    values = (own.lambda_cls, own.alpha, own.memory_size, own.temperature, own.tau, own.graph_tau, own.lambda_ctr)
    assert (options.batch.labeled, options.batch.mu, *values) == TABLE_1[preset]
    assert (own.teacher_decay is None) == (preset == "cifar")
    assert (options.optim.lr, options.optim.weight_decay) == ((0.03, 5e-4) if preset == "cifar" else (0.1, 1e-4))
    assert set(options.views) <= {*CoMatch.views.labeled, *CoMatch.views.unlabeled}
    assert set(options.views.values()) <= set(PRESETS)


WORKER = """
import sys
import process_worker, tiny_problem
tiny_problem.ACTIVE["comatch"] = eval(sys.argv[2])
process_worker.METHODS = ["comatch"]
process_worker.main(sys.argv[1])
"""


@pytest.mark.slow
def test_two_processes_equal_one_in_the_form_with_a_teacher(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    path = {"PYTHONPATH": str(Path(__file__).parent)}

    def start(name: str, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WORKER, str(tmp_path / name), repr(IMAGENET)]
        return subprocess.Popen(command, env=os.environ | path | environment)

    workers = [start("one.pt"), start("two.pt", RANK="0", **group), start("two.pt", RANK="1", **group)]
    try:
        codes = [worker.wait(timeout=120) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert codes == [0, 0, 0]
    one, two = (torch.load(tmp_path / name, weights_only=True)["comatch"]["float64"] for name in ("one.pt", "two.pt"))
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-8)
    for first, second in zip(one["terms"], two["terms"], strict=True):
        assert second == pytest.approx(first, abs=1e-8)
    for key, value in one["state"].items():
        torch.testing.assert_close(two["state"][key], value, rtol=0, atol=1e-7, msg=key)
