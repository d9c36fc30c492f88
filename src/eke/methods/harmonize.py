"""Harmonizing attention (Harmonizing Attention: Attention Map Consistency For Unsupervised Fine-Tuning).

    A_1 = Grad-CAM of u at the last layer, for the likeliest class c of f(u)              eq. 3, 4
    G   = |d f(u)_c / d u| by guided backpropagation, summed over colors                  eq. 5
    P   = 1 / (1 + exp(-(G - mean G) / sigma))                                            eq. 6
    A_2 = Grad-CAM of P u, for the same class c
    L_A = -mean_b r(A_1, A_2)                           r: Pearson's correlation          eq. 2, algorithm 1

    finetune:   loss = L_A, from a trained network                                        section 3.2
    combined:   loss = L_S + lambda_a L_A,   L_S = mean_b CE(y_b, f(x_b))
    alternated: loss = L_S in even steps, L_A in odd ones

Section 6 wishes for "a stochastic process in the computation of the attention consistency", which may let maps overlap
that do not. That is the option `noise`: in training, and only there, Gaussian noise of `noise` standard deviations of a
map is added
- to the map that makes the mask, G or the enlarged Grad-CAM, before eq. 6 (guided_mask, gradcam_mask): now and then the
  mask lets a place through that the map does not mark, and Grad-CAM of the masked image may find it;
- where there is no mask, to both maps that are compared, on their common grid (gradcam_upsampled, guided_pooled): maps
  that share no place then share some by chance.
Whether it helps such images is said by the gain by original agreement in the report of `eke harmonize`.

The other ways of matching resolution and the other measures of the ablation (section 5) are the options `matching` and
`correlation`; formulas and code of all of them are in `eke.explain.harmony` and `eke.losses.correlation`.

Deviations:
1. sigma is the standard deviation of G over the image (paper: "the variance", with which P is 0 or 1 nearly everywhere;
   authors' code: no sigma, a steepness of its own): option `sigma`.
2. P multiplies the normalized image, 0 being the mean color (paper: the image; authors' code: as here).
3. Unlabeled images are normalized with running statistics, which stay as they are (authors' code; paper: silent).
4. The fine-tuning rate is 1e-5 (authors' scripts: 1e-6 to 8e-6; paper: 1e-3 for all training), with AdamW without decay
   for Adam. Views are mirrored only. Preset `pascal` has the paper's rate, and its views for PASCAL VOC.
5. combined: lambda_a = 1 (paper: not given; authors' scripts: 2 to 8).
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from eke.collectives import local_slice, world_size
from eke.config import Options, merge
from eke.data.stream import Batch, ViewPlan
from eke.errors import ConfigError
from eke.explain.harmony import Harmony, Noise, harmony, with_noise
from eke.losses.correlation import CORRELATIONS
from eke.methods.contract import Setting, StepResult
from eke.methods.recipes import PASCAL_ADAM
from eke.methods.terms import AttentionOptions, AttentionTerm
from eke.models.network import Network, layers
from eke.models.norm import running_statistics
from eke.randomness import rng

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
    noise: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Noise of the map that makes the mask, or else of both maps, in its standard deviations; in training only."""


class Harmonize(nn.Module):
    """Two explanations of one decision are made to agree."""

    Config: ClassVar[type[Options]] = HarmonizeConfig
    recipe: ClassVar[Mapping[str, Any]] = merge(PASCAL_ADAM, {"optim": {"lr": 1e-5}})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pascal": {"optim": {"lr": 1e-3}, "views": {"weak": "pascal", "original": "pascal"}},
    }
    several_labels: ClassVar[bool] = True
    views: ClassVar[ViewPlan] = ViewPlan(labeled={"weak": "flip"}, unlabeled={"original": "flip"})
    compiles: ClassVar[bool] = False
    """Guided backpropagation changes the ReLUs of the whole network."""

    def __init__(self, config: HarmonizeConfig, network: Network, setting: Setting) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.seed = setting.seed
        if setting.attention.weight > 0:
            raise ConfigError("attention.weight is another loss than this method's. Leave it out.")
        size = setting.size
        self.layer = explained_layer(network, config, size)
        # names what is looked at, and refuses a layer that there is not; its loss is not used
        looked_at = AttentionOptions(weight=1.0, layer=(self.layer,))
        self.attention = AttentionTerm(looked_at, network, size, setting.total_steps)

    def forward(self, batch: Batch) -> StepResult:
        strategy = self.config.strategy
        harmonizes = strategy != "alternated" or batch.step % 2 == 1
        losses: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        if strategy == "combined" or not harmonizes:
            loss_x = self.network.kind.cross_entropy(self.network(batch.x["weak"].pixels).logits, batch.y)
            losses.append(loss_x)
            terms["loss_x"] = loss_x.detach()
        if harmonizes:
            with running_statistics(self.network):
                noise = self._noise(batch.step)
                found = compare(self.network, batch.u["original"].pixels, self.config, self.layer, noise)
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
        similarity, flat = agreement_by_image(network, images, self.config, self.layer)
        return {"attention_agreement": float(similarity.mean()), "attention_flat_rate": float(flat.float().mean())}

    def _noise(self, step: int) -> Noise | None:
        """Return what adds this step's noise to maps; it is drawn for the global batch, so that N processes add one."""
        if self.config.noise == 0:
            return None
        generator = rng(self.seed, step, "harmonize noise")

        def noise(maps: Tensor) -> Tensor:
            draws = torch.randn(world_size() * len(maps), *maps.shape[1:], generator=generator)
            return with_noise(maps, local_slice(draws).to(maps.device), self.config.noise)

        return noise


def explained_layer(network: Network, config: HarmonizeConfig, size: tuple[int, int]) -> str:
    """Return the layer whose Grad-CAM is taken.

    Raises:
        ConfigError: none gives a map of images of `size`.
    """
    known = layers(network, size)
    if not known:
        raise ConfigError(f"At {size[0]}x{size[1]} pixels no layer gives a map. Train with a larger data.size.")
    return config.layer or known[-1]


def agreement_by_image(network: Network, images: Tensor, config: HarmonizeConfig, layer: str) -> tuple[Tensor, Tensor]:
    """Return how far the two explanations of each image agree (N,), without noise, and whether one is flat (N,) bool.

    Args:
        network: in evaluation mode.
        images: (N, C, H, W), floats in [0, 1].
        config: says how they are compared.
        layer: whose Grad-CAM is taken.

    Returns:
        Both on the CPU, not differentiable.
    """
    parts = images.split(max(1, HELD_OUT_BLOCK // (network.frames or 1)))
    found = [compare(network, part, config, layer) for part in parts]
    return torch.cat([each.similarity.detach() for each in found]).cpu(), torch.cat([each.flat for each in found]).cpu()


def compare(
    network: Network, images: Tensor, config: HarmonizeConfig, layer: str, noise: Noise | None = None
) -> Harmony:
    """Compare the explanations of images as the options say."""
    return harmony(
        network,
        images,
        layer,
        correlation=CORRELATIONS[config.correlation],
        matching=config.matching,
        sigma=config.sigma,
        mask_gradient=config.mask_gradient,
        noise=noise,
    )
