"""Do two explanations of one decision agree? Grad-CAM and guided backpropagation, brought to one resolution.

    A_GC = sum_k alpha_k f_k    with alpha_k = mean over places of d y / d f_k              (3, 4)
    A_GB = d y / d x            guided                                                      (5)
    P(i) = 1 / (1 + exp(-(A(i) - mu) / sigma))    with A = sum over colors of |A_GB|        (6)
    h(A_GC of x, A_GC of P x)                                                               (algorithm 1)

x is the image as the network's body reads it, so that 0 is the mean color, y the logit of the class c = argmax f(x),
in masked images too, f_k the maps of a layer, mu and sigma are taken over the image, and h is a measure of
`eke.losses.correlation`. The loss is L_A = -mean_x h (2). The mask and three other ways to one resolution are
`MATCHINGS` (section 5).

One forward of x serves the logits, Grad-CAM and guided backpropagation; masked images need another. The network runs in
the mode it has, and is left as it was. Where batch norm normalizes with running statistics, as in the authors' code,
the result for an image does not depend on its batch. Dropout in train mode draws anew for masked images.

Source: Harmonizing Attention: Attention Map Consistency For Unsupervised Fine-Tuning, sections 3.1 to 3.3 and 5. The
paper leaves open how colors are joined, and says "the variance" of sigma; see `soft_mask`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from eke.errors import ConfigError, did_you_mean
from eke.explain.cam import grad_cam
from eke.explain.differentiate import widened
from eke.explain.gradients import channel_magnitude
from eke.explain.guided import guided_relus
from eke.explain.scale import is_flat

Sigma = Literal["std", "variance", "authors"]
"""What stands for sigma in eq. 6."""
Correlation = Callable[[Tensor, Tensor], Tensor]
"""Two batches of maps (N, ...) on one grid -> similarity (N,)."""
Noise = Callable[[Tensor], Tensor]
"""Maps (N, ...) -> the same maps with noise, for example `with_noise` of fixed draws."""

# The authors' code has fixed steepnesses in the place of 1 / sigma.
_GUIDED_STEEPNESS, _CAM_STEEPNESS = 8.0, 32.0


class Classifier(Protocol):
    """What is explained: an `eke.models.network.Network`, not compiled, or what behaves like one."""

    mean: Tensor
    """(C,): the color that the body reads as 0."""
    std: Tensor
    """(C,): an image minus `mean` is divided by it."""

    def __call__(self, images: Tensor, taps: Sequence[str]) -> Any:
        """Return something with `logits` (N, K) and `features`, {layer: (N, D, h, w)}, of one forward."""

    def modules(self) -> Iterator[nn.Module]: ...


class Harmony(NamedTuple):
    """How far two explanations of each image agree."""

    similarity: Tensor
    """(N,): h of the two maps; differentiable."""
    flat: Tensor
    """(N,) bool: whether one of the maps is flat, so that nothing can agree."""
    logits: Tensor
    """(N, K) of the images as they are; differentiable."""
    first: Tensor
    """(N, h, w), or (N, t, h, w) of clips, differentiable; see `MATCHINGS` for what it is."""
    second: Tensor
    """Likewise, on the same grid."""


def harmony(
    network: Classifier,
    images: Tensor,
    layer: str,
    *,
    correlation: Correlation,
    matching: str = "guided_mask",
    sigma: Sigma = "std",
    mask_gradient: bool = True,
    noise: Noise | None = None,
) -> Harmony:
    """Compare Grad-CAM with guided backpropagation, for the top predicted class of each image.

    Costs one forward, or two with a mask, and one backward pass to the images, without gradients of parameters.

    Source: Harmonizing Attention, algorithm 1; section 5 for the other matchings.

    Args:
        network: its batch norms use running statistics, or leave them alone.
        images: (N, C, H, W), or (N, C, T, H, W) of clips, floats in [0, 1]; one channel is repeated where the
            network reads more. Where they need a gradient they get it; else they are not touched.
        layer: whose maps Grad-CAM explains; the paper's is the last with a map.
        correlation: h, for example `eke.losses.correlation.pearson`.
        matching: name in `MATCHINGS`.
        sigma: of the mask, see `soft_mask`.
        mask_gradient: whether the mask is differentiated, too; else it is a constant, which is cheaper. Says nothing
            where there is no mask.
        noise: is called with the map that the mask is made of, or where there is no mask with the first and then with
            the second of the maps that are compared, and returns them with noise (section 6 asks for "a stochastic
            process", so that maps may overlap that do not). Everything random is in it.

    Returns:
        Similarities and what they are made of.

    Raises:
        ConfigError: the matching, sigma or layer is unknown, the network has no ReLUs or has smooth activations, or
            its running statistics would change.
    """
    if matching not in MATCHINGS:
        raise ConfigError(f"There is no matching {matching!r}. {did_you_mean(matching, MATCHINGS)}")
    look = _first_look(network, images, layer, trained=True)
    first, second = MATCHINGS[matching](look, sigma, mask_gradient, noise or _unchanged)
    return Harmony(correlation(first, second), is_flat(first) | is_flat(second), look.logits, first, second)


@torch.enable_grad()
def all_cells(
    network: Classifier, images: Tensor, layer: str, correlations: Mapping[str, Correlation], sigma: Sigma = "std"
) -> dict[tuple[str, str], Tensor]:
    """Compare with every matching and every measure, as a figure, not as a loss: nothing is differentiable.

    Costs three forwards and two backward passes to the images, whatever the number of cells.

    Source: Harmonizing Attention, table 4, which correlates each cell with the supervised loss over training.

    Args:
        network: as in `harmony`.
        images: as in `harmony`.
        layer: as in `harmony`.
        correlations: measures by name, for example `eke.losses.correlation.CORRELATIONS`.
        sigma: of the masks.

    Returns:
        {(name in `MATCHINGS`, name of the measure): similarity (N,)}, what `harmony` gives.

    Raises:
        ConfigError: as in `harmony`.
    """
    look = _first_look(network, images, layer, trained=False)
    cells: dict[tuple[str, str], Tensor] = {}
    for matching, match in MATCHINGS.items():
        first, second = match(look, sigma, False, _unchanged)
        cells |= {(matching, name): correlation(first, second) for name, correlation in correlations.items()}
    return cells


def mean_correlation(maps: Sequence[Tensor], correlation: Correlation) -> Tensor:
    """Compare any number M >= 2 of explanations: the mean of h over all pairs of maps.

    Finer maps are averaged over the cells of the coarsest grid, so that every place of every map counts.

    Source: Harmonizing Attention, eq. 2, which leaves h of more than two maps open.

    Args:
        maps: A_1 to A_M, each (N, h_m, w_m), or each (N, t_m, h_m, w_m).
        correlation: h.

    Returns:
        (N,), differentiable.

    Raises:
        ConfigError: there are fewer than two maps, or not all of images or all of clips.
    """
    if len(maps) < 2 or len({each.ndim for each in maps}) > 1:
        shapes = ", ".join(str(tuple(each.shape)) for each in maps)
        raise ConfigError(f"Two or more maps are compared, all (N, h, w) or all (N, t, h, w), not {shapes or 'none'}.")
    grid: Any = tuple(min(sides) for sides in zip(*(each.shape[1:] for each in maps), strict=True))
    pool: Any = F.adaptive_avg_pool2d if len(grid) == 2 else F.adaptive_avg_pool3d
    pooled = [pool(widened(each)[:, None], grid).squeeze(1) for each in maps]
    return torch.stack([correlation(a, b) for a, b in combinations(pooled, 2)]).mean(0)


def with_noise(maps: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Add noise to maps, each in proportion to its own spread: A + strength std(A) draws.

    The spread is differentiated, too: a map that grows does not leave the noise behind.

    Args:
        maps: A, (N, ...).
        draws: of the same shape, standard normal.
        strength: standard deviation of the noise in those of the map over its places, as a whole population.

    Returns:
        Likewise, differentiable, in float32 or better; a flat map has no spread and stays as it is.
    """
    maps = widened(maps)
    variance = maps.var(tuple(range(1, maps.ndim)), correction=0, keepdim=True)
    std = variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt()  # the slope of a root is infinite at 0
    flat = is_flat(maps).view_as(std)
    return torch.where(flat, maps, maps + strength * std * draws)


def _unchanged(maps: Tensor) -> Tensor:
    return maps


def soft_mask(guided: Tensor, sigma: Sigma = "std", noise: Noise = _unchanged) -> Tensor:
    """Make a mask of the pixels that guided backpropagation marks, each image by its own mean and spread (eq. 6).

    "std" reads sigma as the standard deviation, so that the mask does not depend on the gradient's size. "variance" is
    what the paper says: gradients are small, their variance far smaller, and the mask is 0 or 1 nearly everywhere.
    "authors" is their code: sigmoid(8 (A - (mu + std / 2))), near 1/2 everywhere where gradients are small.

    Source: Harmonizing Attention, eq. 6.

    Args:
        guided: A_GB, (N, C, H, W) or (N, C, T, H, W), signed.
        sigma: "std", "variance" or "authors"; both spreads are those of the image as a whole population.
        noise: of A, before its mean and spread are taken.

    Returns:
        P, (N, H, W) or (N, T, H, W) in [0, 1], differentiable, in float32 or better; 1/2 where the map is flat.

    Raises:
        ConfigError: sigma is unknown.
    """
    return _logistic(noise(channel_magnitude(widened(guided), "sum")), sigma, _GUIDED_STEEPNESS)


def _logistic(evidence: Tensor, sigma: Sigma, steepness: float) -> Tensor:
    """Return P of eq. 6 for a map A of one value a place, (N, ...)."""
    if sigma not in get_args(Sigma):
        raise ConfigError(f"There is no sigma {sigma!r}. {did_you_mean(sigma, get_args(Sigma))}")
    variance, mu = torch.var_mean(evidence, tuple(range(1, evidence.ndim)), correction=0, keepdim=True)
    flat = is_flat(evidence).view_as(mu)
    numbers = torch.finfo(variance.dtype)
    std = variance.clamp(min=numbers.tiny).sqrt()  # the slope of a root is infinite at 0
    if sigma == "authors":
        z = steepness * (evidence - (mu + std / 2))
    else:
        z = (evidence - mu) / ((std if sigma == "std" else variance) + numbers.eps**2)
    return torch.where(flat, 0.5, z.sigmoid())


class Look:
    """One forward of x, and what explains the logit of class c in it; each map is made at the first call only.

    Args:
        network: see `harmony`.
        pixels: (N, C, H, W) or (N, C, T, H, W), with all the channels that the body reads.
        layer: whose maps Grad-CAM explains.
        classes: c, (N,); None for those predicted here.
        guided: whether `guided` will be asked for.
        trained: whether maps are differentiable.
    """

    def __init__(
        self, network: Classifier, pixels: Tensor, layer: str, classes: Tensor | None, *, guided: bool, trained: bool
    ) -> None:
        self.network, self.pixels, self.layer, self.trained = network, pixels, layer, trained
        # pixels of the caller's that need no gradient stay as they are
        self._x = pixels.detach().requires_grad_() if guided and not pixels.requires_grad else pixels
        with guided_relus() as self._relus:
            outputs = network(self._x, taps=(layer,))
        self.logits: Tensor = outputs.logits
        self.classes = self.logits.detach().argmax(1) if classes is None else classes
        self._features: Tensor = outputs.features[layer]
        self._score = self.logits.gather(1, self.classes[:, None])[:, 0]
        self._cam: Tensor | None = None
        self._guided: Tensor | None = None

    def cam(self, *, constant: bool = False) -> Tensor:
        """Return A_GC, (N, h, w) or (N, t, h, w); `constant`: not differentiable."""
        if self._cam is None:
            self._cam = grad_cam(self._score, self._features, create_graph=self.trained and not constant)
        return self._cam

    def guided(self, *, constant: bool = False) -> Tensor:
        """Return A_GB with respect to what the body reads, of the shape of the pixels; `constant` likewise."""
        if self._guided is None:
            gradient = self._relus.gradient(self._score, self._x, create_graph=self.trained and not constant)
            self._guided = gradient * _of_channels(self.network.std, gradient)
        return self._guided

    def masked(self, mask: Tensor, *, guided: bool = False) -> "Look":
        """Look at P x, for the same classes; P is (N, H, W) or (N, T, H, W)."""
        mean = _of_channels(self.network.mean, self.pixels)
        pixels = mean + mask[:, None] * (self.pixels - mean)
        return Look(self.network, pixels, self.layer, self.classes, guided=guided, trained=self.trained)


def guided_mask(look: Look, sigma: Sigma, mask_gradient: bool, noise: Noise) -> tuple[Tensor, Tensor]:
    """Mask by guided backpropagation: Grad-CAM of x, and of P x, both on the layer's grid. The paper's choice."""
    mask = soft_mask(look.guided(constant=not mask_gradient), sigma, noise)
    return look.cam(), look.masked(mask).cam()


def gradcam_mask(look: Look, sigma: Sigma, mask_gradient: bool, noise: Noise) -> tuple[Tensor, Tensor]:
    """Mask by Grad-CAM: magnitudes of guided gradients of x, and of Q x, both on the image's grid.

    Q is the mask of eq. 6 with A = A_GC, signed and enlarged to the image; the authors' steepness is 32 here. Guided
    gradients depend on their image only through who is active, unless the network has gates: a gradient through Q is 0.
    """
    evidence = noise(_enlarged(look.cam(constant=not mask_gradient), look.pixels))
    mask = _logistic(evidence, sigma, _CAM_STEEPNESS)
    again = look.masked(mask, guided=True)
    return channel_magnitude(look.guided(), "sum"), channel_magnitude(again.guided(), "sum")


def gradcam_upsampled(look: Look, sigma: Sigma, mask_gradient: bool, noise: Noise) -> tuple[Tensor, Tensor]:
    """Enlarge: Grad-CAM, linearly, and magnitudes of guided gradients, both on the image's grid."""
    return noise(_enlarged(look.cam(), look.pixels)), noise(channel_magnitude(look.guided(), "sum"))


def guided_pooled(look: Look, sigma: Sigma, mask_gradient: bool, noise: Noise) -> tuple[Tensor, Tensor]:
    """Pool: Grad-CAM, and the highest magnitudes of guided gradients in its cells, both on the layer's grid."""
    cam, magnitude = look.cam(), channel_magnitude(look.guided(), "sum")
    pool = F.adaptive_max_pool2d if cam.ndim == 3 else F.adaptive_max_pool3d
    return noise(cam), noise(pool(magnitude[:, None], cam.shape[1:]).squeeze(1))


MATCHINGS: Mapping[str, Callable[[Look, Sigma, bool, Noise], tuple[Tensor, Tensor]]] = {
    "guided_mask": guided_mask,
    "gradcam_mask": gradcam_mask,
    "gradcam_upsampled": gradcam_upsampled,
    "guided_pooled": guided_pooled,
}
"""Name -> the two maps that are compared, on one grid: (look at x, sigma, mask_gradient, noise) -> (first, second)."""


def _first_look(network: Classifier, images: Tensor, layer: str, *, trained: bool) -> Look:
    for module in network.modules():
        if isinstance(module, _NormBase) and module.training and module.track_running_stats:
            raise ConfigError(
                f"A {type(module).__name__} in train mode would learn its running statistics from masked images: put "
                "batch norms in eval mode, or run inside `eke.models.norm.running_statistics(network)`."
            )
    # a grey image is as many equal channels to the body, and each has a gradient of its own
    channels = len(network.mean) if images.shape[1] == 1 else images.shape[1]
    pixels = images.expand(-1, channels, *images.shape[2:])
    return Look(network, pixels, layer, None, guided=True, trained=trained)


def _of_channels(values: Tensor, images: Tensor) -> Tensor:
    return values.view(-1, *[1] * (images.ndim - 2))


def _enlarged(maps: Tensor, images: Tensor) -> Tensor:
    """Enlarge maps (N, h, w) or (N, t, h, w) to the size of images (N, C, H, W) or (N, C, T, H, W)."""
    mode = "bilinear" if images.ndim == 4 else "trilinear"
    return F.interpolate(maps[:, None], images.shape[2:], mode=mode, align_corners=False).squeeze(1)
