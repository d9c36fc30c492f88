"""Grad-CAM consistency (Lee and Cho, Semi-supervised Image Classification with Grad-CAM Consistency).

    p_b    = softmax(f(u_b)), without gradient
    L_S    = mean_b CE(y_b, f(x_b))                                           supervised
    L_P    = mean_b -sum_c p_bc log softmax(f(Aug u_b))_c                     pseudo-label
    L_G    = mean_b |Aug E(u_b; L) - E(Aug u_b; L)|^2                         E: Grad-CAM at layer L, mean over places
    loss   = alpha L_S + beta L_P + gamma L_G                                 algorithm 1

Aug cuts the map of the original as it cuts the image (figure 2, last column). How maps are made and compared is said
by the options `attention.*` (see `eke.methods.terms`), whose weight and layer are gamma and L here.

| paper | here |
|---|---|
| X_L, X_U | x, u |
| f(x_u), f(z_u) | u_original, u_augmented |

Deviations:
1. Algorithm 1 writes E(Aug(z_u)) with z_u augmented already; E(z_u) is meant.
2. Optimizer and batch are those of FixMatch's CIFAR-10 runs with mu = 1 (the paper gives none; authors' code, preset
   `authors`: 4 + 4 images, SGD with rate 0.001, momentum 0.9, weight decay 1e-5 and a constant rate, from ImageNet
   weights, which `model.pretrained=true` loads).
3. Each image has crop, turn and jitter of its own, of all four turns (authors' code: one draw for the batch, a jitter
   of strength 0, and no turn by 270 degrees).
4. The original is explained for its own predicted class, and the augmented view for the same; every image counts
   (authors' code: each view's own class; images whose largest logit is below 0.85 are left out).
5. Maps are normalized after the original's was cut, where both views show their own place, on the layer's grid
   (authors' code: before, everywhere, on the image's grid).
6. In train mode the batch's statistics are constants for the maps (authors' code: running statistics, in a forward of
   its own), and the weights of the maps have a gradient (authors' code: none). `attention.batch_norm=eval` and
   `attention.second_order=false` are the authors' code.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from eke.config import Options, merge
from eke.data.stream import Batch, ViewPlan
from eke.errors import ConfigError
from eke.methods.contract import PseudoLabels, Setting, StepResult
from eke.methods.recipes import CIFAR_SGD
from eke.methods.terms import AttentionTerm, layer_names
from eke.models.network import Network, layers


class GradCAMConsistencyConfig(Options):
    """Options of Grad-CAM consistency itself (paper, algorithm 1; authors' code)."""

    alpha: float = Field(1.0, ge=0)
    """Weight of the supervised loss."""
    beta: float = Field(1.0, ge=0)
    """Weight of the pseudo-label loss; 0 is the ablation that the paper's introduction names."""
    gamma: float = Field(1.0, ge=0)
    """Weight of the Grad-CAM loss; 0 is the paper's ablation."""
    layer: tuple[str, ...] = ()
    """L: layers whose maps are compared, by name; empty: the deepest that has a map."""
    pseudo_label: Literal["soft", "hard", "l2"] = "soft"
    """L_P: soft cross entropy (paper), cross entropy with the likeliest class (authors' code), or squared error."""

    _listed = field_validator("layer", mode="before")(layer_names)


class GradCAMConsistency(nn.Module):
    """Predictions and Grad-CAM of an image and of its augmented view agree."""

    Config: ClassVar[type[Options]] = GradCAMConsistencyConfig
    recipe: ClassVar[Mapping[str, Any]] = merge(CIFAR_SGD, {"batch": {"mu": 1}})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "authors": {
            "batch": {"labeled": 4},
            "optim": {
                "lr": 0.001,
                "nesterov": False,
                "weight_decay": 1e-5,
                "schedule": "constant",
                "ema_decay": 0.0,
            },
            "method": {"pseudo_label": "hard"},
            "attention": {
                "cam_class": "own",
                "second_order": False,
                "resolution": "image",
                "batch_norm": "eval",
            },
        },
    }
    several_labels: ClassVar[bool] = True
    views: ClassVar[ViewPlan] = ViewPlan(
        labeled={"weak": "flip"}, unlabeled={"original": "flip", "augmented": "crop-rotate-jitter"}
    )

    def __init__(self, config: GradCAMConsistencyConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        if setting.attention.weight > 0:
            raise ConfigError("attention.weight is method.gamma of this method. Set that one.")
        size = setting.size
        looks_at_layers = config.gamma > 0 and setting.attention.map != "saliency"
        chosen = config.layer or (tuple(layers(network, size)[-1:]) if looks_at_layers else ())
        options = setting.attention.model_copy(update={"weight": config.gamma, "layer": chosen})
        self.attention = AttentionTerm(options, network, size, setting.total_steps)

    def forward(self, batch: Batch) -> StepResult:
        config = self.config
        x, u_original, u_augmented = (
            batch.x["weak"].pixels, batch.u["original"].pixels, batch.u["augmented"].pixels
        )  # fmt: skip
        B, U = len(x), len(u_original)
        seen = self.attention.see(torch.cat([x, u_original, u_augmented]))
        logits_x, logits_u, logits_u_augmented = seen.outputs.logits.split([B, U, U])

        loss_x = self.network.kind.cross_entropy(logits_x, batch.y)
        loss_u = self._pseudo_label_loss(logits_u_augmented, self.network.kind.probabilities(logits_u.detach()))
        views = batch.u["original"], batch.u["augmented"]
        attended = self.attention.compare(seen, slice(B, B + U), slice(B + U, None), views, batch.step)

        label = self.network.kind.guess(self.network.kind.probabilities(logits_u)).label
        return StepResult(
            config.alpha * loss_x + config.beta * loss_u + attended.loss,
            {"loss_x": loss_x.detach(), "loss_u": loss_u.detach(), **attended.terms},
            PseudoLabels(label, torch.ones_like(label, dtype=logits_u.dtype)),
        )

    def _pseudo_label_loss(self, logits: Tensor, p: Tensor) -> Tensor:
        if self.config.pseudo_label == "l2":
            return self.network.kind.squared_error(logits, p)
        return self.network.kind.cross_entropy(
            logits, self.network.kind.guess(p).label if self.config.pseudo_label == "hard" else p
        )
