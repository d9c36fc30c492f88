"""Harmonizing attention against algorithm 1 of its paper, image by image, and its three strategies."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from tiny_problem import make_batch, make_method, make_setting
from torch import Tensor, nn

from eke.augment.geometry import View, identity
from eke.augment.presets import PRESETS
from eke.config import parse
from eke.errors import ConfigError
from eke.explain.guided import guided_relus
from eke.explain.harmony import harmony
from eke.losses.correlation import pearson
from eke.methods.harmonize import Harmonize
from eke.methods.terms import AttentionOptions
from eke.models.backbones import build_network
from eke.models.network import ModelOptions, Network
from eke.models.norm import running_statistics
from eke.tasks.assemble import chosen_views
from eke.tasks.options import resolve


class Relus(Network):
    """Convolution, batch norm, ReLU, convolution, mean, linear head."""

    def __init__(self) -> None:
        torch.manual_seed(5)
        body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1))
        super().__init__(body, nn.Linear(5, 4), width=5, mean=[0.4] * 3, std=[0.3] * 3)


def make(**options: Any) -> Harmonize:
    method = Harmonize(parse(Harmonize.Config, options), Relus(), make_setting()).double()
    with torch.no_grad():  # statistics that are not those of the batch
        method.network.body[1].running_mean.uniform_(-0.2, 0.2)
        method.network.body[1].running_var.uniform_(0.5, 1.5)
        method.network.head.weight.mul_(5)
    return method.train()


def guided_gradient(network: Any, x: Tensor, c: int) -> Tensor:
    """d f_c / d x of one normalized image, layer by layer; a ReLU passes what is positive, in both directions."""
    conv, norm, _, last = network.body
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    inner = (conv(x[None]) - norm.running_mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1) + norm.bias.view(
        1, -1, 1, 1
    )
    h, w = x.shape[1:]
    grad = (network.head.weight[c] / (h * w)).view(1, -1, 1, 1).expand(1, -1, h, w)
    grad = F.conv_transpose2d(grad, last.weight, padding=1)
    grad = grad.clamp(min=0) * (inner > 0) * scale.view(1, -1, 1, 1)
    return F.conv_transpose2d(grad, conv.weight, padding=1)[0]


def grad_cam(network: Any, x: Tensor, c: int) -> Tensor:
    """Eq. 3 and 4 at the last convolution, which is averaged and read by the head."""
    conv, norm, relu, last = network.body
    features = last(relu(F.batch_norm(conv(x[None]), norm.running_mean, norm.running_var, norm.weight, norm.bias)))[0]
    return (network.head.weight[c].view(-1, 1, 1) * features).sum(0) / features[0].numel()


def correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()


def attention_loss(method: Harmonize, images: Tensor) -> Tensor:
    network: Any = method.network
    total: Any = 0.0
    for image in images:
        x = (image - 0.4) / 0.3
        network.eval()
        c = int(network(image[None]).logits.argmax())
        network.train()
        marks = guided_gradient(network, x, c).abs().sum(0)
        mask = 1 / (1 + torch.exp(-(marks - marks.mean()) / marks.std(correction=0)))
        total = total - correlation(grad_cam(network, x, c), grad_cam(network, mask * x, c))
    return total / len(images)


def test_the_loss_is_that_of_algorithm_1_and_so_is_its_gradient() -> None:
    method, batch = make(), make_batch("harmonize", 0)
    result = method(batch)
    expected = attention_loss(method, batch.u["original"].pixels)
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert set(result.terms) == {"loss_attention", "attention_agreement", "attention_flat_rate"}
    names, parameters = zip(*method.named_parameters(), strict=True)
    mine = torch.autograd.grad(result.loss, parameters)
    theirs = torch.autograd.grad(expected, parameters, allow_unused=True)
    for name, a, b in zip(names, mine, theirs, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=1e-4, atol=1e-8, msg=name)


def test_statistics_stay_and_the_mode_is_left() -> None:
    method = make(strategy="combined")
    before = method.network.body[1].running_mean.clone()
    combined = method(make_batch("harmonize", 0))
    assert all(module.training for module in method.network.modules())
    assert not torch.equal(method.network.body[1].running_mean, before)  # of labeled images: an ordinary step
    alone = make()
    alone(make_batch("harmonize", 0))
    assert torch.equal(alone.network.body[1].running_mean, before)
    assert math.isfinite(combined.loss.item())


def test_strategies() -> None:
    batch, odd = make_batch("harmonize", 0), make_batch("harmonize", 1)
    combined = make(strategy="combined", lambda_a=0.25)(batch)
    supervised = combined.terms["loss_x"].item()
    assert combined.loss.item() == pytest.approx(supervised + 0.25 * combined.terms["loss_attention"].item())
    method = make(strategy="alternated", lambda_a=0.25)
    even = method(batch)
    assert set(even.terms) == {"loss_x"}
    assert even.loss.item() == pytest.approx(supervised)
    turn = make(strategy="alternated", lambda_a=0.25)(odd)
    assert set(turn.terms) == {"loss_attention", "attention_agreement", "attention_flat_rate"}
    assert turn.loss.item() == turn.terms["loss_attention"].item() == make()(odd).loss.item()


def test_labels_are_not_read_by_finetuning() -> None:
    batch = make_batch("harmonize", 0)
    other = batch._replace(y=(batch.y + 1) % 4)
    assert make()(batch).loss.item() == make()(other).loss.item()


@pytest.mark.parametrize("matching", ["guided_mask", "gradcam_mask", "gradcam_upsampled", "guided_pooled"])
@pytest.mark.parametrize("measure", ["pearson", "cross_correlation", "ssim"])
def test_every_matching_and_measure_trains(matching: str, measure: str) -> None:
    method = make(matching=matching, correlation=measure, layer="2")
    method(make_batch("harmonize", 0)).loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in method.parameters())
    assert method.network.body[0].weight.grad.any()


def test_without_noise_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch("harmonize", 0)
    without = make(noise=0.0)(batch).loss
    method = make()
    with running_statistics(method.network):
        found = harmony(method.network, batch.u["original"].pixels, "3", correlation=pearson)
    assert without.item() == -found.similarity.mean().item()  # to the last bit
    monkeypatch.setattr("eke.methods.harmonize.rng", lambda *_: pytest.fail("drawn"))
    make()(batch)


@pytest.mark.parametrize("matching", ["guided_mask", "guided_pooled"])
def test_noise_is_a_function_of_seed_and_step(matching: str) -> None:
    batch, later = make_batch("harmonize", 0), make_batch("harmonize", 0)._replace(step=1)
    method = make(noise=0.5, matching=matching)
    first = method(batch).loss.item()
    torch.manual_seed(99)  # the default generator has no part in it
    assert method(batch).loss.item() == first == make(noise=0.5, matching=matching)(batch).loss.item()
    others = [make(matching=matching)(batch), method(later), make(noise=0.6, matching=matching)(batch)]
    method.seed += 1
    others.append(method(batch))
    assert first not in {each.loss.item() for each in others}
    images = batch.u["original"].pixels
    method.network.eval()
    quiet = make(matching=matching)
    figures = [each.held_out_figures(each.network.eval(), images) for each in (method, quiet)]
    assert figures[0] == figures[1]


def test_noise_is_normal_and_every_images_own() -> None:
    noise = make(noise=0.5)._noise(7)
    assert noise is not None
    sizes = torch.arange(1, 41)[:, None, None]
    maps = torch.rand(40, 30, 30, generator=torch.Generator().manual_seed(1)).double() * sizes
    once, twice = ((noise(maps) - maps) / maps.std((1, 2), correction=0, keepdim=True) for _ in range(2))
    for drawn in (once, twice):
        assert stats.kstest(drawn.flatten().numpy() / 0.5, "norm").pvalue > 1e-3
        between = torch.corrcoef(drawn.flatten(1))
        assert (between - torch.eye(40)).abs().max() < 5 / 30  # 780 pairs, each about N(0, 1 / 900)
    assert abs(float(torch.corrcoef(torch.stack([once.flatten(), twice.flatten()]))[0, 1])) < 0.03


def test_processes_share_the_noise_of_the_global_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.rand(6, 4, 4, dtype=torch.float64)

    def noisy(its: Tensor) -> Tensor:
        noise = make(noise=0.5)._noise(3)
        assert noise is not None
        return noise(its)

    whole = noisy(maps)
    for where in ("eke.methods.harmonize.world_size", "eke.collectives.world_size"):
        monkeypatch.setattr(where, lambda: 2)
    for number, part in enumerate(maps.chunk(2)):
        monkeypatch.setattr("eke.collectives.rank", lambda number=number: number)
        assert torch.equal(noisy(part), whole.chunk(2)[number])


def test_held_out_images_are_measured_in_blocks() -> None:
    method = make()
    images = torch.rand(19, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = -attention_loss(method, images).item()
    figures = method.held_out_figures(method.network.eval(), images)
    assert figures["attention_agreement"] == pytest.approx(expected, rel=1e-6)
    assert figures["attention_flat_rate"] == 0
    assert all(parameter.grad is None for parameter in method.parameters())


@pytest.mark.parametrize(
    ("method", "rate", "labeled", "views"),
    [
        ("supervised/pascal", 1e-3, 4, {"weak": "pascal"}),
        ("supervised/clips", 1e-3, 12, {"weak": "weak"}),
        ("harmonize", 1e-5, 4, {"weak": "flip", "original": "flip"}),
        ("harmonize/pascal", 1e-3, 4, {"weak": "pascal", "original": "pascal"}),
    ],
)
def test_presets_are_section_4_2(method: str, rate: float, labeled: int, views: dict[str, str]) -> None:
    options = resolve(method, {"source": "digits"})
    optim = options.optim
    assert (optim.name, optim.lr, optim.weight_decay, optim.schedule) == ("adamw", rate, 0, "constant")
    assert (optim.momentum, optim.warmup_steps, optim.ema_decay) == (0.9, 0, 0)
    assert (options.batch.labeled, options.batch.mu) == (labeled, 1)
    plan = chosen_views(options)
    assert {**plan.labeled, **plan.unlabeled} == views
    assert set(views.values()) <= set(PRESETS)


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(ConfigError, match="no layer '33'"):
        make(layer="33")
    setting = make_setting()._replace(attention=AttentionOptions(weight=1.0, layer=("0",)))
    with pytest.raises(ConfigError, match="another loss"):
        Harmonize(Harmonize.Config(), make_method("fixmatch").network, setting)


@pytest.mark.slow
def test_inception_v3_is_harmonized_and_its_functional_relus_are_guided() -> None:
    """It has no ReLU modules: swapping modules, as others do, leaves the plain gradient."""
    size = (299, 299)
    colors = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    network = build_network(
        ModelOptions(name="torchvision/inception_v3"), n_classes=4, channels=3, size=size, seed=0, **colors
    )
    assert not any(isinstance(module, nn.ReLU) for module in network.modules())
    setting = make_setting()._replace(image_shape=(3, *size), embedding_width=network.width)
    method = Harmonize(parse(Harmonize.Config, {}), network, setting).train()
    pixels = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    view = View(pixels, identity(1, size), torch.ones(1, *size, dtype=torch.bool))
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-4, weight_decay=0)
    losses = []
    for step in range(3):
        batch = make_batch("harmonize", step)._replace(u={"original": view})
        loss = method(batch).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(torch.isfinite(each.grad).all() for each in method.parameters() if each.grad is not None)
        optimizer.step()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses))
    assert len(set(losses)) == 3

    x = pixels.clone().requires_grad_()
    with guided_relus() as relus:
        score = network.eval()(x).logits.amax(1)
    guided = relus.gradient(score, x, create_graph=False)
    (plain,) = torch.autograd.grad(network(x).logits.amax(), x)
    assert guided.abs().sum() > 0
    assert F.cosine_similarity(guided.flatten(), plain.flatten(), dim=0) < 0.9
