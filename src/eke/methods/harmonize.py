"""Harmonizing attention (Harmonizing Attention: Attention Map Consistency For Unsupervised Fine-Tuning).

    A_1 = Grad-CAM of u at the last layer, for the likeliest class c of f(u)              eq. 3, 4
    G   = |d f(u)_c / d u| by guided backpropagation, summed over colors                  eq. 5
    P   = 1 / (1 + exp(-(G - mean G) / sigma))                                            eq. 6
    A_2 = Grad-CAM of P u, for the same class c
    L_A = -mean_b r(A_1, A_2)                           r: Pearson's correlation          eq. 2, algorithm 1

    finetune:   loss = L_A, from a trained network                                        section 3.2
    combined:   loss = L_S + lambda_a L_A,   L_S = mean_b CE(y_b, f(x_b))
    alternated: loss = L_S in even steps, L_A in odd ones

The other ways of matching resolution and the other measures of the ablation (section 5) are the options `matching` and
`correlation`; formulas and code of all of them are in `eke.explain.harmony` and `eke.losses.correlation`.

Deviations:
1. sigma is the standard deviation of G over the image (paper: "the variance", with which P is 0 or 1 nearly everywhere;
   authors' code: no sigma, a steepness of its own): option `sigma`.
2. P multiplies the normalized image, 0 being the mean color (paper: the image; authors' code: as here).
3. Unlabeled images are normalized with running statistics, which stay as they are (authors' code; paper: silent).
4. The fine-tuning rate is 1e-5 (authors' scripts: 1e-6 to 8e-6; paper: 1e-3 for all training), with AdamW without decay
   for Adam. Views are mirrored; the paper's further augmentations are a matter of its data.
5. combined: lambda_a = 1 (paper: not given; authors' scripts: 2 to 8).
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.errors import ConfigError
from eke.explain.harmony import Harmony, harmony
from eke.losses.classification import cross_entropy
from eke.losses.correlation import CORRELATIONS
from eke.methods.contract import Setting, StepResult
from eke.methods.terms import AttentionOptions, AttentionTerm
from eke.models.network import Network, layers
from eke.models.norm import running_statistics

HELD_OUT_BLOCK = 16
"""Images, or frames of clips, whose explanations are compared at once where they are only measured."""


class HarmonizeConfig(Options):
    """Options of harmonizing attention itself."""

    strategy: Literal["finetune", "combined", "alternated"] = "finetune"
    """finetune: no label is read; combined: both losses; alternated: each in its turn."""
    lambda_a: float = Field(1.0, ge=0)
    """Weight of L_A beside the supervised loss (combined)."""
    layer: str | None = None
    """Layer whose Grad-CAM is taken; default: the deepest that has a map."""
    matching: Literal["guided_mask", "gradcam_mask", "gradcam_upsampled", "guided_pooled"] = "guided_mask"
    """How the two maps are brought to one resolution; the paper's is guided_mask."""
    correlation: Literal["pearson", "cross_correlation", "ssim"] = "pearson"
    """How alike two maps are."""
    sigma: Literal["std", "variance", "authors"] = "std"
    """Of eq. 6."""
    mask_gradient: bool = True
    """Whether the gradient flows through the mask, too (authors' code); false is cheaper."""


class Harmonize(nn.Module):
    """Two explanations of one decision are made to agree."""

    Config: ClassVar[type[Options]] = HarmonizeConfig
    recipe: ClassVar[Mapping[str, Any]] = {
        "batch": {"labeled": 4, "mu": 1},
        "optim": {
            "name": "adamw",
            "lr": 1e-5,
            "momentum": 0.9,
            "weight_decay": 0.0,
            "schedule": "constant",
            "warmup_steps": 0,
            "ema_decay": 0.0,
        },
    }
    views: ClassVar[ViewPlan] = ViewPlan(labeled={"weak": "flip"}, unlabeled={"original": "flip"})
    compiles: ClassVar[bool] = False
    """Guided backpropagation changes the ReLUs of the whole network."""

    def __init__(self, config: HarmonizeConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        if setting.attention.weight > 0:
            raise ConfigError("attention.weight is another loss than this method's. Leave it out.")
        size = setting.size
        known = layers(network, size)
        if not known:
            raise ConfigError(f"At {size[0]}x{size[1]} pixels no layer gives a map. Train with a larger data.size.")
        self.layer = config.layer or known[-1]
        # names what is looked at, and refuses a layer that there is not; its loss is not used
        looked_at = AttentionOptions(weight=1.0, layer=(self.layer,))
        self.attention = AttentionTerm(looked_at, network, size, setting.total_steps)

    def forward(self, batch: Batch) -> StepResult:
        strategy = self.config.strategy
        harmonizes = strategy != "alternated" or batch.step % 2 == 1
        losses: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        if strategy == "combined" or not harmonizes:
            loss_x = cross_entropy(self.network(batch.x["weak"].pixels).logits, batch.y)
            losses.append(loss_x)
            terms["loss_x"] = loss_x.detach()
        if harmonizes:
            with running_statistics(self.network):
                found = self._compare(self.network, batch.u["original"].pixels)
            loss_a = -found.similarity.mean()
            losses.append(self.config.lambda_a * loss_a if strategy == "combined" else loss_a)
            losses.append(0 * found.logits.sum())  # several processes want a gradient for every weight, the biases too
            terms |= {
                "loss_attention": loss_a.detach(),
                "attention_agreement": found.similarity.detach().mean(),
                "attention_flat_rate": found.flat.float().mean(),
            }
        return StepResult(torch.stack(losses).sum(), terms)

    def held_out_figures(self, network: Network, images: Tensor) -> dict[str, float]:
        """Tell how far the two explanations agree on images that are not trained on.

        Args:
            network: of the structure of the trained one, in evaluation mode.
            images: (N, C, [T,] H, W), floats in [0, 1].

        Returns:
            attention_agreement and attention_flat_rate, means over images.
        """
        found = [self._compare(network, part) for part in images.split(max(1, HELD_OUT_BLOCK // (network.frames or 1)))]
        similarity, flat = (
            torch.cat(each) for each in zip(*((f.similarity.detach(), f.flat) for f in found), strict=True)
        )
        return {"attention_agreement": float(similarity.mean()), "attention_flat_rate": float(flat.float().mean())}

    def _compare(self, network: Network, images: Tensor) -> Harmony:
        config = self.config
        return harmony(
            network,
            images,
            self.layer,
            correlation=CORRELATIONS[config.correlation],
            matching=config.matching,
            sigma=config.sigma,
            mask_gradient=config.mask_gradient,
        )
