"""The attention term: geometry, batch norm, orders of differentiation, what it refuses, and that methods take it."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_problem import ACTIVE, WITH_LABELS, make_batch, make_method, make_setting
from torch import Tensor, nn

from eke.augment.geometry import Geometry, View, compose, identity, inverse, warp
from eke.augment.presets import PRESETS
from eke.config import parse
from eke.errors import ConfigError
from eke.methods import METHODS
from eke.methods.terms import AttentionOptions, AttentionTerm
from eke.models.backbones import build_network
from eke.models.network import ModelOptions, Network
from eke.randomness import rng

TAKE_IT = ["comatch", "fixmatch", "flexmatch", "freematch", "simmatch", "softmatch", "uda"]
SIDE = 16


def residual(n_classes: int = 4) -> Network:
    colors = {"channels": 3, "mean": (0.4,) * 3, "std": (0.3,) * 3}
    network = build_network(ModelOptions(name="resnet20"), n_classes=n_classes, size=(SIDE, SIDE), seed=1, **colors)
    return network.double().train()


def two_views(n: int = 3, preset: str = "crop-rotate-jitter") -> tuple[View, View]:
    """Images with structure, and augmented views of them as the library makes them."""
    draw = rng(5, 0, "attention")
    coarse = torch.rand(n, 3, 4, 4, generator=draw)
    images = F.interpolate(coarse, (SIDE, SIDE), mode="bilinear").mul(255).to(torch.uint8)
    kind = PRESETS[preset]
    augmented = kind.apply(images, kind.draw(n, 3, (SIDE, SIDE), draw))
    original = View(images.double() / 255, identity(n, (SIDE, SIDE)), torch.ones(n, SIDE, SIDE, dtype=torch.bool))
    return original, augmented._replace(pixels=augmented.pixels.double())


def attend(
    network: Network, views: tuple[View, View], step: int = 0, **options: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return loss and diagnostics of the term alone."""
    term = AttentionTerm(AttentionOptions(weight=1.0, **options), network, (SIDE, SIDE), total_steps=10)
    n = len(views[0].pixels)
    seen = term.see(torch.cat([view.pixels for view in views]))
    attended = term.compare(seen, slice(0, n), slice(n, None), views, step)
    assert isinstance(attended.loss, Tensor)
    return attended.loss, attended.terms


def gradients(loss: Tensor, network: Network) -> dict[str, Tensor | None]:
    names, parameters = zip(*network.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


@pytest.mark.parametrize("batch_norm", ["constant", "eval"])
@pytest.mark.parametrize("normalize", ["minmax", "none"])
def test_the_closed_form_is_the_gradient_in_value_and_in_second_order(batch_norm: str, normalize: str) -> None:
    network, views = residual(), two_views()
    other = copy.deepcopy(network)
    closed, _ = attend(network, views, layer="layer3", batch_norm=batch_norm, normalize=normalize)
    other.head = nn.Sequential(other.head)  # the same head, which nobody recognizes as linear
    taken, _ = attend(other, views, layer="layer3", batch_norm=batch_norm, normalize=normalize)
    assert closed.item() == pytest.approx(taken.item(), rel=1e-12)
    a, b = gradients(closed, network), gradients(taken, other)
    for name, grad in a.items():
        expected = b[name.replace("head.", "head.0.")]
        if grad is None:  # the bias: no map depends on it
            assert expected is None or not expected.any()
        else:
            torch.testing.assert_close(grad, expected, rtol=1e-8, atol=1e-12)


def test_in_train_mode_a_batch_is_explained_as_each_image_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: one image's score at a time, the batch's statistics as numbers; then warp, scale and compare."""
    network, views = residual(), two_views()
    n = len(views[0].pixels)
    loss, _ = attend(network, views, layer="layer1", normalize="none")
    real = F.batch_norm

    def fixed(x: Tensor, running_mean: Any, running_var: Any, weight: Any, bias: Any, *rest: Any) -> Tensor:
        mean, var = x.mean((0, 2, 3)).detach(), x.var((0, 2, 3), correction=0).detach()
        return real(x, mean, var, weight, bias, False, 0.0, rest[-1])

    monkeypatch.setattr(F, "batch_norm", fixed)
    maps, labels = [], []
    for i in range(2 * n):
        outputs = network(torch.cat([view.pixels for view in views]), taps=("layer1",))
        labels.append(int(outputs.logits[i % n].argmax()))
        (alpha,) = torch.autograd.grad(outputs.logits[i, labels[-1]], outputs.features["layer1"])
        maps.append((alpha[i].mean((1, 2), keepdim=True) * outputs.features["layer1"][i]).sum(0).detach())
    monkeypatch.undo()
    assert loss.item() == pytest.approx(squared_error_by_places(maps[:n], maps[n:], views), rel=1e-5)
    coupled, _ = attend(network, views, layer="layer1", normalize="none", batch_norm="coupled")
    assert abs(coupled.item() - loss.item()) > 0.01 * loss.item()


def squared_error_by_places(originals: list[Tensor], augmented: list[Tensor], views: tuple[View, View]) -> float:
    """Bilinear by hand; a place counts where it lies in the image and most of its cell is the view's own."""
    each = []
    for i, (target, own) in enumerate(zip(originals, augmented, strict=True)):
        h, w = own.shape
        cell = SIDE // h
        matrix = views[1].geometry.matrix[i].tolist()
        squares = []
        for y in range(h):
            for x in range(w):
                at = ((x + 0.5) * cell, (y + 0.5) * cell, 1.0)
                sx, sy = (sum(a * b for a, b in zip(row, at, strict=True)) / cell for row in matrix)
                shown = views[1].valid[i, y * cell : (y + 1) * cell, x * cell : (x + 1) * cell].float().mean()
                if not (0 <= sx < w and 0 <= sy < h and shown > 0.5):
                    continue
                left, top = int((sx - 0.5) // 1), int((sy - 0.5) // 1)
                px, py = sx - 0.5 - left, sy - 0.5 - top

                rows = [min(max(row, 0), h - 1) for row in (top, top + 1)]
                columns = [min(max(column, 0), w - 1) for column in (left, left + 1)]
                upper, lower = (
                    float(target[row, columns[0]] * (1 - px) + target[row, columns[1]] * px) for row in rows
                )
                squares.append((upper * (1 - py) + lower * py - float(own[y, x])) ** 2)
        each.append(sum(squares) / max(1, len(squares)))
    return sum(each) / len(each)


@pytest.mark.parametrize(
    "options",
    [{"layer": "layer2"}, {"layer": "layer1,layer3"}, {"map": "saliency"}, {"layer": "layer2", "map": "layercam"}],
)
def test_the_gradient_is_that_of_finite_differences(options: dict[str, str]) -> None:
    network, views = residual(), two_views()
    chosen = [network.body.stem[0].weight, network.body.layer3[1].conv2.weight, network.head.weight]
    loss, _ = attend(network, views, **options)
    for weight, grad in zip(chosen, torch.autograd.grad(loss, chosen), strict=True):
        direction, step = torch.randn_like(weight), 1e-7
        values = []
        for sign in (1, -2):
            with torch.no_grad():
                weight.add_(sign * step * direction)
            values.append(attend(network, views, **options)[0].item())
        with torch.no_grad():
            weight.add_(step * direction)
        expected = (values[0] - values[1]) / (2 * step)
        assert (grad * direction).sum().item() == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_first_order_reaches_the_layers_below_only() -> None:
    network, views = residual(), two_views()
    second = gradients(attend(network, views, layer="layer2")[0], network)
    first = gradients(attend(network, views, layer="layer2", second_order=False)[0], network)
    values = [attend(network, views, layer="layer2", second_order=order)[0].item() for order in (True, False)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    for name, grad in first.items():
        above = name.startswith(("body.layer3", "head"))
        assert (grad is None or not grad.any()) == above, name
        assert name == "head.bias" or second[name] is not None, name


def test_a_fixed_target_has_no_gradient() -> None:
    network, (original, augmented) = residual().eval(), two_views()
    pixels = original.pixels.clone().requires_grad_()
    for detached in (False, True):
        loss, _ = attend(network, (original._replace(pixels=pixels), augmented), layer="layer2", detach_target=detached)
        (grad,) = torch.autograd.grad(loss, pixels, allow_unused=True)
        assert (grad is None or not grad.any()) == detached


def pixelwise() -> Network:
    """A network whose map of a moved image is the moved map: it reads each pixel by itself."""
    torch.manual_seed(4)
    body = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Identity())
    return Network(body, nn.Linear(5, 3), width=5).double()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_mirrors_and_quarter_turns_are_exact(turns: int, mirrored: bool) -> None:
    original, _ = two_views()
    n = len(original.pixels)
    pixels = original.pixels.flip(3) if mirrored else original.pixels
    pixels = pixels.rot90(-turns, (2, 3))
    linear = {0: [[1.0, 0], [0, 1]], 1: [[0, 1], [-1, 0]], 2: [[-1, 0], [0, -1]], 3: [[0, -1], [1, 0]]}[turns]
    shift = {0: [0, 0], 1: [0, SIDE], 2: [SIDE, SIDE], 3: [SIDE, 0]}[turns]
    matrix = torch.tensor([[*row, move] for row, move in zip(linear, shift, strict=True)], dtype=torch.float32)
    if mirrored:
        matrix = torch.stack([torch.tensor([0.0, 0, SIDE]) - matrix[0], matrix[1]])
    geometry = Geometry(matrix.repeat(n, 1, 1), (SIDE, SIDE), (SIDE, SIDE))
    loss, terms = attend(pixelwise(), (original, View(pixels, geometry, original.valid)), layer="1")
    assert loss.item() < 1e-20
    assert terms["attention_agreement"].item() == pytest.approx(1)
    if turns or mirrored:
        wrong, _ = attend(pixelwise(), (original, View(pixels, original.geometry, original.valid)), layer="1")
        assert wrong > 1e-3


def test_the_map_of_a_cut_and_turned_image_is_the_cut_and_turned_map() -> None:
    original, augmented = two_views(8)
    assert len(augmented.geometry.matrix.flatten(1).unique(dim=0)) > 4
    jittered = attend(pixelwise(), (original, augmented), layer="1")[1]["attention_agreement"]
    plain = augmented._replace(pixels=warp(original.pixels, augmented.geometry)[0])
    loss, terms = attend(pixelwise(), (original, plain), layer="1")
    assert loss.item() < 1e-12
    assert terms["attention_agreement"].item() == pytest.approx(1, abs=1e-6)
    assert jittered < terms["attention_agreement"]


def test_the_original_may_be_cut_too() -> None:
    """Both views are cut out of one image; what only the augmented one shows has no counterpart and does not count."""
    whole, augmented = two_views(8)
    augmented = augmented._replace(pixels=warp(whole.pixels, augmented.geometry)[0])
    matrix = torch.tensor([[-0.75, 0, 14], [0, 0.75, 2]]).repeat(8, 1, 1)
    mirrored = Geometry(matrix, (SIDE, SIDE), (SIDE, SIDE))
    original = View(warp(whole.pixels, mirrored)[0], mirrored, whole.valid)
    loss, terms = attend(pixelwise(), (original, augmented), layer="1")
    assert terms["attention_agreement"] > 0.99  # two resamplings are not exact
    assert loss < 2e-3
    between = compose(inverse(mirrored), augmented.geometry)
    outside = ~warp(original.pixels, between)[1]
    assert 0.05 < outside.double().mean() < 0.7
    painted = torch.where(outside[:, None], 5.0, augmented.pixels)
    assert attend(pixelwise(), (original, augmented._replace(pixels=painted)), layer="1")[0].item() == loss.item()


@pytest.mark.parametrize("normalize", ["minmax", "l2", "sum", "none"])
def test_what_is_hidden_changes_no_scale(normalize: str) -> None:
    (original, _), network = two_views(), pixelwise()
    with torch.no_grad():
        network.head.bias[0] = 1e4  # of one class, whatever is painted
        network.head.weight[0], network.body[0].bias[:] = 1.0, 3.0  # its map is above 0
    hidden = original.valid.clone()
    hidden[:, 4:9, 3:11] = False
    losses = []
    for paint in (0.5, 40.0, -40.0):
        pixels = torch.where(hidden[:, None], original.pixels, paint)
        views = View(pixels, original.geometry, hidden), View(pixels.flip(0), original.geometry, hidden)
        losses.append(attend(network, views, layer="1", normalize=normalize)[0].item())
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-9)
    assert losses[0] > 0
    if normalize == "minmax":
        maps = torch.einsum("nchw,c->nhw", network.body(original.pixels), network.head.weight[0]).detach()
        rows = [each[shown] for each, shown in zip(maps, hidden, strict=True)]
        rows = [(each - each.min()) / (each.max() - each.min()) for each in rows]
        expected = sum((a - b).square().mean() for a, b in zip(rows, rows[::-1], strict=True)) / len(rows)
        assert losses[0] == pytest.approx(expected.item(), rel=1e-9)


def test_what_a_view_does_not_show_does_not_count() -> None:
    original, _ = two_views()
    hidden = original.valid.clone()
    hidden[:, 4:9, 3:11] = False
    painted = torch.where(hidden[:, None], original.pixels, 0.7)
    holes = View(painted, original.geometry, hidden)
    assert attend(pixelwise(), (original, holes), layer="1", normalize="none")[0].item() < 1e-20
    assert attend(pixelwise(), (original, holes._replace(valid=original.valid)), layer="1", normalize="none")[0] > 1e-9
    assert attend(pixelwise(), (holes, original), layer="1", normalize="none")[0].item() < 1e-20


@pytest.mark.parametrize("loss", ["mse", "cosine", "contrastive"])
@pytest.mark.parametrize("normalize", ["minmax", "l2", "sum", "none"])
@pytest.mark.parametrize("resolution", ["features", "image"])
def test_every_combination_is_finite_and_learns(loss: str, normalize: str, resolution: str) -> None:
    network, views = residual(), two_views()
    value, terms = attend(network, views, layer="layer2", loss=loss, normalize=normalize, resolution=resolution)
    grads = gradients(value, network)
    assert all(torch.isfinite(grad).all() for grad in grads.values() if grad is not None)
    assert grads["body.stem.0.weight"].any()
    assert -1 <= terms["attention_agreement"] <= 1
    assert 0 <= terms["attention_spread"] <= 1 + 1e-9


def test_flat_and_equal_maps_are_said() -> None:
    network = pixelwise()
    views = two_views(4)
    with torch.no_grad():
        network.body[0].weight.zero_()
    loss, terms = attend(network, views, layer="1")
    assert loss.item() == 0
    assert terms["attention_flat_rate"] == 1
    assert terms["attention_entropy"].item() == pytest.approx(math.log(SIDE**2))
    original = views[0]._replace(pixels=views[0].pixels[:1].expand(4, -1, -1, -1))
    _, terms = attend(pixelwise(), (original, original), layer="1")
    assert terms["attention_flat_rate"] == 0
    assert terms["attention_entropy"] < math.log(SIDE**2) - 0.01
    assert terms["attention_spread"].item() == pytest.approx(0, abs=1e-12)


def test_each_view_may_be_explained_for_a_class_of_its_own() -> None:
    network, (original, _) = pixelwise(), two_views()
    with torch.no_grad():  # bright images are of class 0, dark ones of class 1
        network.body[0].weight.fill_(1.0)
        network.body[0].bias.fill_(-1.5)
        network.head.weight.copy_(torch.tensor([[1.0] * 5, [-1.0] * 5, [0.0] * 5]))
        network.head.bias.zero_()
    dark = original._replace(pixels=original.pixels / 20)
    bright = original._replace(pixels=1 - original.pixels / 20)
    own, shared = (attend(network, (dark, bright), layer="1", cam_class=c)[1] for c in ("own", "shared"))
    assert shared["attention_agreement"].item() == pytest.approx(-1)  # the map of class 1 of the negative image
    assert own["attention_agreement"].item() == pytest.approx(1)


def test_the_weight_grows_over_the_ramp() -> None:
    network, views = residual(), two_views()
    shared, _ = attend(network, views, layer="layer2")
    half, terms = attend(network, views, step=2, layer="layer2", ramp_rate=0.4)
    assert half.item() == pytest.approx(shared.item() / 2)
    assert terms["loss_attention"].item() == pytest.approx(shared.item())


@pytest.mark.parametrize("options", [{"layer": "layer1", "batch_norm": b} for b in ("constant", "eval", "coupled")])
def test_the_network_is_left_as_found(options: dict[str, str]) -> None:
    network, views = residual(), two_views()
    plain = copy.deepcopy(network)
    plain(torch.cat([view.pixels for view in views]))  # running statistics follow the one ordinary forward
    modes = [module.training for module in network.modules()]
    attend(network, views, **options)
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(not module._forward_hooks for module in network.modules())
    for (name, mine), theirs in zip(network.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs attention.layer"),
        ({"layer": "layer33"}, "no layer 'layer33'. Did you mean"),
        ({"layer": "layer1", "map": "cam"}, "averaged and read by a linear head"),
        ({"layer": "layer1", "map": "saliency"}, "leave attention.layer out"),
        ({"map": "saliency", "second_order": False}, "second_order=true"),
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attend(residual(), two_views(), **options)


def method_with(name: str, weight: float, **options: Any) -> Any:
    kind = METHODS[name]
    network: Any = make_method("fixmatch").network
    attention = AttentionOptions(weight=weight, layer=("0",), **options)
    own = {**ACTIVE[name], **({"teacher_decay": None} if name == "simmatch" else {})}
    return kind(parse(kind.Config, own), network, make_setting()._replace(attention=attention)).double()


@pytest.mark.parametrize("name", TAKE_IT)
def test_methods_take_the_term(name: str) -> None:
    without, with_it = (method_with(name, weight) for weight in (0.0, 2.5))
    with_it.load_state_dict(without.state_dict())
    batch = make_batch(name, 0)
    a, b = without(batch), with_it(batch)
    assert set(b.terms) - set(a.terms) == {
        *("loss_attention", "attention_agreement", "attention_entropy", "attention_flat_rate", "attention_spread")
    }
    assert b.terms["loss_attention"] > 0
    assert b.loss.item() == pytest.approx(a.loss.item() + 2.5 * b.terms["loss_attention"].item(), rel=1e-9)
    n_labeled, n_unlabeled = len(batch.y), len(batch.u_index)
    views = batch.u["weak"], batch.u["strong"]
    seen = with_it.attention.see(torch.cat([batch.x["weak"].pixels, *(view.pixels for view in views)]).double())
    if name not in {"comatch"}:  # whose forward holds one view more, which batch statistics depend on
        rows = slice(n_labeled, n_labeled + n_unlabeled), slice(n_labeled + n_unlabeled, None)
        alone = with_it.attention.compare(seen, *rows, views, 0)
        assert alone.terms["loss_attention"].item() == pytest.approx(b.terms["loss_attention"].item(), rel=1e-9)


@pytest.mark.parametrize("name", ["comatch", "simmatch", "mean_teacher"])
def test_where_a_teacher_sees_the_original_its_maps_are_the_targets(name: str) -> None:
    kind, own = METHODS[name], {**ACTIVE[name], "teacher_decay": 0.5}
    without, with_it = (
        kind(
            parse(kind.Config, own),
            make_method("fixmatch").network,
            make_setting()._replace(attention=AttentionOptions(weight=weight, layer=("0",))),
        ).double()
        for weight in (0.0, 2.5)
    )
    with torch.no_grad():
        for parameter in without.teacher.module.parameters():  # a teacher that is not the network
            parameter.add_(torch.randn_like(parameter) / 4)
    with_it.load_state_dict(without.state_dict())
    batch = make_batch(name, 3)
    student = "weak_2" if name == "mean_teacher" else "strong"
    cut = batch.u[student].geometry
    matrix = torch.tensor([[0.5, 0, 1], [0, 0.5, 2]]).expand_as(cut.matrix)  # so that the views cannot change places
    batch.u[student] = batch.u[student]._replace(geometry=cut._replace(matrix=matrix))
    a, b = without(batch), with_it(batch)
    assert b.terms["loss_attention"] > 0
    assert b.loss.item() == pytest.approx(a.loss.item() + 2.5 * b.terms["loss_attention"].item(), rel=1e-9)
    for (key, mine), theirs in zip(with_it.state_dict().items(), without.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), key  # running statistics, queues and average alike
    x, u, B = batch.x["weak"].pixels, batch.u, len(batch.y)
    before = [] if name == "mean_teacher" else [x]
    after = [u["strong_2"].pixels] if name == "comatch" else []
    seen = with_it.attention.see(torch.cat([*before, u[student].pixels]).double())
    taught = with_it.attention.teach(with_it.teacher.module, torch.cat([*before, u["weak"].pixels, *after]).double())
    start = B if before else 0
    rows = slice(start, start + len(u["weak"].pixels)), slice(start, None)
    alone = with_it.attention.compare(seen, *rows, (u["weak"], u[student]), 0, taught)
    assert alone.terms["loss_attention"].item() == pytest.approx(b.terms["loss_attention"].item(), rel=1e-9)
    b.loss.backward()
    assert all(parameter.grad is None for parameter in with_it.teacher.module.parameters())
    assert all(parameter.grad is not None for parameter in with_it.network.parameters())


def taught_by(teacher: Network, network: Network, views: tuple[View, View], **options: Any) -> Tensor:
    """Return the loss of the term where `teacher` sees the originals."""
    term = AttentionTerm(AttentionOptions(weight=1.0, **options), network, (SIDE, SIDE), total_steps=10)
    taught = term.teach(teacher.requires_grad_(False), views[0].pixels)
    assert not taught.outputs.logits.requires_grad
    attended = term.compare(term.see(views[1].pixels), slice(None), slice(None), views, 0, taught)
    assert isinstance(attended.loss, Tensor)
    return attended.loss


@pytest.mark.parametrize("options", [{"layer": "layer3"}, {"layer": "layer1,layer2"}, {"map": "saliency"}])
def test_a_teacher_of_equal_weights_is_a_fixed_target(options: dict[str, str]) -> None:
    network, views = residual().eval(), two_views()
    loss = taught_by(copy.deepcopy(network), network, views, **options)
    expected, _ = attend(network, views, detach_target=True, **options)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    b = gradients(expected, network)
    for name, grad in gradients(loss, network).items():
        if grad is not None:
            torch.testing.assert_close(grad, b[name], rtol=1e-7, atol=1e-12)


def test_the_teachers_maps_are_of_its_own_head_and_class() -> None:
    network, views, teacher = residual().eval(), two_views(), residual().eval()
    with torch.no_grad():
        teacher.head.weight.copy_(-2 * network.head.weight.flip(0))
        teacher.head.bias.copy_(torch.tensor([9.0, 0, 0, 0]))
    loss = taught_by(teacher, network, views, layer="layer3", normalize="none")
    maps = []
    for each, view in zip((teacher, network), views, strict=True):
        features = each(view.pixels, taps=("layer3",)).features["layer3"]
        maps.append(torch.einsum("nchw,c->nhw", features, each.head.weight[0]) / features[0, 0].numel())
    assert loss.item() == pytest.approx(squared_error_by_places(*(list(m.detach()) for m in maps), views), rel=1e-5)
    hidden = copy.deepcopy(teacher)
    hidden.head = nn.Sequential(hidden.head)
    network.head = nn.Sequential(network.head)  # neither is known to be linear
    assert taught_by(hidden, network, views, layer="layer3", normalize="none").item() == pytest.approx(loss.item())


def test_the_others_say_that_they_do_not() -> None:
    assert {name for name in WITH_LABELS if hasattr(make_method(name), "attention")} == {
        *TAKE_IT,
        "mean_teacher",
        "gradcam_consistency",
        "harmonize",
    }
