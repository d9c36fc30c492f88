"""Grad-CAM consistency against algorithm 1 of its paper, image by image and place by place."""

import math
from typing import Any

import pytest
import torch
from tiny_problem import make_batch, make_method, make_setting
from torch import Tensor

from eke.augment.geometry import Geometry, View
from eke.config import parse
from eke.data.stream import Batch
from eke.errors import ConfigError
from eke.methods.gradcam_consistency import GradCAMConsistency
from eke.methods.terms import AttentionOptions
from eke.models.backbones import build_network
from eke.models.network import ModelOptions

EVAL = {"batch_norm": "eval"}


def turned(view: View) -> View:
    """Turn a square view by 90 degrees, and say so: output (x, y) comes from (y, W - x)."""
    side = view.pixels.shape[-1]
    matrix = torch.tensor([[0.0, 1, 0], [-1, 0, side]]).repeat(len(view.pixels), 1, 1)
    return View(view.pixels.rot90(-1, (2, 3)), Geometry(matrix, (side, side), (side, side)), view.valid)


def make(options: dict[str, Any], attention: dict[str, Any]) -> GradCAMConsistency:
    torch.manual_seed(3)
    network: Any = make_method("fixmatch").network
    setting = make_setting()._replace(attention=AttentionOptions(**attention))
    return GradCAMConsistency(parse(GradCAMConsistency.Config, options), network, setting).double()


def batch_with_a_turn(step: int = 0) -> Batch:
    batch = make_batch("gradcam_consistency", step)
    original = batch.u["original"]
    return batch._replace(u={"original": original, "augmented": turned(original)})


def grad_cam_of(method: GradCAMConsistency, image: Tensor, label: int, layer: str) -> list[list[float]]:
    """Grad-CAM of one image by its definition (eq. 1 and 2 of its paper), in evaluation mode."""
    network = method.network
    outputs = network(image[None], taps=(layer,))
    (gradient,) = torch.autograd.grad(outputs.logits[0, label], outputs.features[layer])
    channels, h, w = gradient.shape[1:]
    alpha = [float(gradient[0, k].sum()) / (h * w) for k in range(channels)]
    values = outputs.features[layer][0].tolist()
    return [[sum(alpha[k] * values[k][i][j] for k in range(channels)) for j in range(w)] for i in range(h)]


def minmax(rows: list[list[float]]) -> list[list[float]]:
    low, high = min(map(min, rows)), max(map(max, rows))
    return [[(value - low) / (high - low) for value in row] for row in rows]


def softmax(logits: list[float]) -> list[float]:
    exps = [math.exp(value) for value in logits]
    return [value / sum(exps) for value in exps]


@pytest.mark.parametrize("layer", ["0", "1", "2"])
@pytest.mark.parametrize("pseudo_label", ["soft", "hard", "l2"])
def test_the_loss_is_that_of_algorithm_1(layer: str, pseudo_label: str) -> None:
    options = {"alpha": 0.7, "beta": 0.6, "gamma": 1.9, "layer": [layer], "pseudo_label": pseudo_label}
    method, batch = make(options, EVAL).eval(), batch_with_a_turn()
    result = method(batch)

    logits = {side: method.network(batch.u[side].pixels).logits.tolist() for side in ("original", "augmented")}
    logits_x = method.network(batch.x["weak"].pixels).logits.tolist()
    loss_s = sum(-math.log(softmax(z)[y]) for z, y in zip(logits_x, batch.y.tolist(), strict=True)) / len(logits_x)
    loss_p, loss_g = 0.0, 0.0
    U = len(logits["original"])
    for b in range(U):
        p, q = softmax(logits["original"][b]), softmax(logits["augmented"][b])
        label = p.index(max(p))
        loss_p += {
            "soft": -sum(a * math.log(c) for a, c in zip(p, q, strict=True)),
            "hard": -math.log(q[label]),
            "l2": sum((a - c) ** 2 for a, c in zip(p, q, strict=True)) / len(p),
        }[pseudo_label] / U
        maps = {side: grad_cam_of(method, batch.u[side].pixels[b], label, layer) for side in ("original", "augmented")}
        n = len(maps["original"])
        # the map turned as the image: what stands at (i, j) comes from row n - 1 - j, column i
        target = minmax([[maps["original"][n - 1 - j][i] for j in range(n)] for i in range(n)])
        own = minmax(maps["augmented"])
        loss_g += sum((target[i][j] - own[i][j]) ** 2 for i in range(n) for j in range(n)) / (n * n) / U

    assert result.terms["loss_x"].item() == pytest.approx(loss_s, rel=1e-9)
    assert result.terms["loss_u"].item() == pytest.approx(loss_p, rel=1e-9)
    assert result.terms["loss_attention"].item() == pytest.approx(loss_g, rel=1e-6)  # geometry is float32
    assert result.loss.item() == pytest.approx(0.7 * loss_s + 0.6 * loss_p + 1.9 * loss_g, rel=1e-6)


def test_without_gamma_no_map_is_taken_and_without_a_layer_it_is_the_deepest() -> None:
    result = make({"gamma": 0.0}, {})(batch_with_a_turn())
    assert set(result.terms) == {"loss_x", "loss_u"}
    assert make({}, {}).attention.layers == ("2",)
    assert make({}, {"map": "saliency"})(batch_with_a_turn()).terms["loss_attention"] > 0


def test_the_weight_is_gamma() -> None:
    with pytest.raises(ConfigError, match=r"attention\.weight is method\.gamma"):
        make({}, {"weight": 1.0})


def test_pseudo_labels_have_no_gradient() -> None:
    method = make({"alpha": 0.0, "gamma": 0.0}, {}).eval()
    batch = batch_with_a_turn()
    pixels = batch.u["original"].pixels.requires_grad_()
    method(batch).loss.backward()
    assert pixels.grad is None or not pixels.grad.any()


def test_the_authors_preset_trains_a_residual_network() -> None:
    network = build_network(
        ModelOptions(name="resnet20"), n_classes=4, channels=3, size=(6, 6), mean=(0.0,) * 3, std=(1.0,) * 3, seed=0
    )
    preset = GradCAMConsistency.presets["authors"]
    setting = make_setting()._replace(attention=AttentionOptions(**preset["attention"]), embedding_width=64)
    options = parse(GradCAMConsistency.Config, {**preset["method"], "layer": "layer1,layer2"})
    method = GradCAMConsistency(options, network, setting).train()
    batch = make_batch("gradcam_consistency", 0, dtype=torch.float32)
    result = method(batch)
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert result.terms["loss_attention"] > 0
    assert all(module.training for module in method.modules())
