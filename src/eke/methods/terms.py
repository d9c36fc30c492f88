"""Attention consistency as a term of any method that shows two views of an unlabeled image to its network.

    E_b  = attention map of the original view of u_b, for class c_b
    E'_b = attention map of the augmented view, for the same class
    loss = weight w(s) mean_b d(warp(E_b), E'_b),   c_b = argmax f(original u_b),  w(s) = min(1, s / (ramp_rate steps))

warp cuts the map of the original as the augmented view was cut out of it, image by image; places that the augmented
view does not show of its own (fill, padding, holes) do not count. Both maps are scaled after warping, on one grid.

Source: Semi-supervised Image Classification with Grad-CAM Consistency (Lee and Cho), section III. What it leaves open
is decided as each option says.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from eke.augment.geometry import Size, View, compose, inverse, warp
from eke.collectives import global_mean
from eke.config import Options
from eke.errors import ConfigError
from eke.explain.cam import CAMS, class_activation
from eke.explain.gradients import channel_magnitude, saliency
from eke.explain.scale import Scale, is_flat, map_entropy, normalize
from eke.losses.maps import MAP_LOSSES
from eke.losses.ramps import linear_ramp
from eke.losses.similarity import unit_length
from eke.models.network import Network, Outputs, is_pooled_linearly
from eke.models.norm import SeparableBatchNorm, constant_statistics

INPUT = "input"
"""What `saliency` looks at instead of a layer."""


def layer_names(value: Any) -> Any:
    """Read names of layers: several in one word are separated by commas."""
    return tuple(filter(None, value.split(","))) if isinstance(value, str) else value


class AttentionOptions(Options):
    """Attention consistency between two views of each unlabeled image."""

    weight: float = Field(0.0, ge=0)
    """Weight of the term at the end of its ramp; 0 leaves it out."""
    layer: tuple[str, ...] = ()
    """Layers whose maps are compared, by name; several are averaged. `eke explain` shows a network's layers."""
    map: Literal["gradcam", "gradcam++", "layercam", "hirescam", "cam", "saliency"] = "gradcam"
    """The explanation: gradcam and its kin, cam (class activation, of a layer before pooling and a linear head), or
    saliency (gradient of the input, which needs no layer)."""
    loss: Literal["mse", "cosine", "contrastive"] = "mse"
    """Distance of two maps; contrastive tells an image's own map from those of the others."""
    cam_class: Literal["shared", "own"] = "shared"
    """shared: the class predicted for the original view explains both; own: each view its own (authors' code)."""
    detach_target: bool = False
    """Whether the original's map is a fixed target; else both maps move (authors' code)."""
    second_order: bool = True
    """Whether the gradient also flows through a map's weights; false is cheaper (authors' code)."""
    normalize: Scale = "minmax"
    """How maps are scaled before they are compared."""
    resolution: Literal["features", "image"] = "features"
    """Grid of the comparison: the layer's, or the image's (authors' code)."""
    batch_norm: Literal["constant", "eval", "coupled"] = "constant"
    """In train mode batch norm couples images. constant: statistics are numbers in the inner gradient, so that maps are
    those of single images; eval: a forward of their own with running statistics (authors' code); coupled: as it is."""
    ramp_rate: float = Field(0.0, ge=0, le=1)
    """Fraction of the run over which the weight grows from 0: maps of an untrained network are noise."""

    _listed = field_validator("layer", mode="before")(layer_names)


class Seen(NamedTuple):
    """What the network makes of a step's images."""

    outputs: Outputs
    """Of the forward that the method's own losses read."""
    explained: Outputs
    """Of the forward that is explained: the same, or one in evaluation mode."""
    network: Network
    """The one that saw them."""


class Attended(NamedTuple):
    """The term and its diagnostics."""

    loss: Tensor | float
    """Weighted, to be added to the method's loss."""
    terms: dict[str, Tensor]
    """Detached scalars: loss_attention (not weighted), and what `diagnostics` says."""


class AttentionTerm:
    """Runs the network such that its maps can be compared afterwards; without a weight it just runs it. Has no state.

    Args:
        options: what is compared, and how.
        network: the one that is trained.
        size: (H, W) of the images.
        total_steps: of the run.

    Raises:
        ConfigError: there is no such layer, or the options do not go together.
    """

    def __init__(self, options: AttentionOptions, network: Network, size: tuple[int, int], total_steps: int) -> None:
        self.options, self.network = options, network
        self.ramp_steps = options.ramp_rate * total_steps
        self.layers = options.layer if options.weight > 0 else ()
        if options.weight == 0:
            return
        if options.map == "saliency" and options.layer:
            raise ConfigError("attention.map = saliency looks at the image itself: leave attention.layer out.")
        if options.map == "saliency" and not options.second_order:
            raise ConfigError("attention.map = saliency is a gradient itself: it needs attention.second_order=true.")
        if options.map != "saliency" and not options.layer:
            raise ConfigError("attention.weight needs attention.layer: the name of one or several layers.")
        self.closed = {name for name in self.layers if is_pooled_linearly(network, name, size)}
        if options.map == "cam" and self.closed != set(self.layers):
            unfit = sorted(set(self.layers) - self.closed)
            raise ConfigError(
                f"attention.map = cam needs a layer that is averaged and read by a linear head, which {unfit[0]!r} is "
                "not. Take the network's last map, or attention.map=gradcam."
            )

    def see(self, images: Tensor) -> Seen:
        """Run the network once over `images` (N, C, H, W), or twice where evaluation mode is explained."""
        return self._see(self.network, images)

    @torch.no_grad()
    def teach(self, teacher: Network, images: Tensor) -> Seen:
        """Run another network likewise, such as the average of `network`; it gets no gradient.

        Args:
            teacher: of the structure of `network`; its parameters need no gradient.
            images: (N, C, H, W).
        """
        with torch.set_grad_enabled(self.options.weight > 0):  # from its maps to its logits, no farther
            seen = self._see(teacher, images)
        outputs = seen.outputs
        return seen._replace(outputs=Outputs(outputs.logits.detach(), outputs.embedding.detach(), {}))

    def _see(self, network: Network, images: Tensor) -> Seen:
        options = self.options
        if options.weight == 0:
            outputs = network(images)
            return Seen(outputs, outputs, network)
        if options.map == "saliency":
            images = images.detach().requires_grad_()
        if options.batch_norm == "eval":
            return Seen(network(images), self._taken(self._evaluated(network, images), images), network)
        with SeparableBatchNorm() if options.batch_norm == "constant" else nullcontext():
            outputs = network(images, taps=self.layers)
        return Seen(outputs, self._taken(outputs, images), network)

    def compare(
        self,
        seen: Seen,
        original: slice,
        augmented: slice,
        views: tuple[View, View],
        step: int,
        taught: Seen | None = None,
    ) -> Attended:
        """Compare the maps of two views of the same U images.

        Args:
            seen: what `see` returned.
            original: rows of the images' original views.
            augmented: rows of their augmented views, in the same order.
            views: original and augmented, as they were made.
            step: 0-based.
            taught: what `teach` returned, where a teacher saw the original views: `original` are its rows then, and its
                maps are fixed targets.
        """
        options = self.options
        if options.weight == 0:
            return Attended(0.0, {})
        classes, target_classes = (each.explained.logits.detach().argmax(1) for each in (seen, taught or seen))
        if options.cam_class == "shared":
            classes[augmented] = target_classes[original]
        maps = self._maps(seen, classes, create_graph=True)
        targets = maps if taught is None else self._maps(taught, target_classes, create_graph=False)
        losses, found = [], []
        for target, own in zip(targets, maps, strict=True):
            at_image = options.resolution == "image"
            target, own, valid = on_one_grid(target[original], own[augmented], *views, at_image=at_image)
            target = target.detach() if options.detach_target or taught is not None else target
            target, own = (_scaled(each, valid, options.normalize) for each in (target, own))
            losses.append(MAP_LOSSES[options.loss](own, target, valid))
            found.append(diagnostics(target.detach(), own.detach(), valid))
        loss = torch.stack(losses).mean()
        terms = {name: torch.stack([each[name] for each in found]).mean() for name in found[0]}
        weight = options.weight * linear_ramp(step, self.ramp_steps)
        return Attended(weight * loss, {"loss_attention": loss.detach(), **terms})

    def _taken(self, outputs: Outputs, images: Tensor) -> Outputs:
        return outputs._replace(features={INPUT: images}) if self.options.map == "saliency" else outputs

    def _evaluated(self, network: Network, images: Tensor) -> Outputs:
        """Look with running statistics, and leave the network in the mode it is in."""
        modes = [(module, module.training) for module in network.modules()]
        network.eval()
        try:
            outputs: Outputs = network(images, taps=self.layers)
        finally:
            for module, mode in modes:
                module.training = mode
        return outputs

    def _maps(self, seen: Seen, classes: Tensor, *, create_graph: bool) -> list[Tensor]:
        """Return one batch of maps, (N, h, w) or (N, t, h, w), per layer, of the classes (N,)."""
        options, features, logits = self.options, seen.explained.features, seen.explained.logits
        score = logits.to(torch.promote_types(logits.dtype, torch.float32)).gather(1, classes[:, None]).squeeze(1)
        closed = {name for name in self.closed if options.map in {"gradcam", "cam"}}
        left = [name for name in self.layers if name not in closed]
        with constant_statistics() if options.batch_norm == "constant" else nullcontext():
            if options.map == "saliency":
                return [channel_magnitude(saliency(score, features[INPUT], create_graph=create_graph), "sum")]
            taken = (
                CAMS[options.map](
                    score,
                    [features[name] for name in left],
                    create_graph=create_graph,
                    constant_weights=not options.second_order,
                )
                if left
                else []
            )
        maps = dict(zip(left, taken, strict=True))
        weights = cast("nn.Linear", seen.network.head).weight[classes] if closed else torch.empty(0)
        weights = weights if options.second_order else weights.detach()
        maps |= {name: class_activation(features[name], weights) / features[name][0, 0].numel() for name in closed}
        return [maps[name] for name in self.layers]


def on_one_grid(
    original_maps: Tensor, augmented_maps: Tensor, original: View, augmented: View, *, at_image: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut maps of original views as the augmented views were cut out of them.

    Args:
        original_maps: (U, [t,] h, w).
        augmented_maps: (U, [t,] h, w), of the augmented views.
        original: as it was made.
        augmented: as it was made, of the same images.
        at_image: compare on the image's grid, to which maps are enlarged, instead of theirs.

    Returns:
        The original's maps as they should be in the augmented view, the augmented view's own, and where both views show
        their own place of the image: (U, [t,] h, w) each.
    """
    if at_image:
        size = original.geometry.size
        original_maps, augmented_maps = _enlarged(original_maps, size), _enlarged(augmented_maps, size)
    between = compose(inverse(original.geometry), augmented.geometry)
    target, inside = warp(original_maps, between)
    size = (target.shape[-2], target.shape[-1])
    shown, _ = warp(_coarse(original.valid, size), between, interpolation="nearest")
    valid = inside & (shown > 0.5) & (_coarse(augmented.valid, size) > 0.5)
    return target, augmented_maps, valid.view(-1, *[1] * (target.ndim - 3), *size).expand_as(target)


def diagnostics(
    target: Tensor, own: Tensor, valid: Tensor, mean: Callable[..., Tensor] = global_mean
) -> dict[str, Tensor]:
    """Tell maps that agree because they follow the image from maps that agree because they are flat or all alike.

    Args:
        target: (U, ...) maps of the originals, cut as the augmented views.
        own: (U, ...) maps of the augmented views.
        valid: (U, ...) bool.
        mean: over the batch; `torch.mean` where one process looks alone.

    Returns:
        Scalars of the batch: attention_agreement (mean cosine of the two maps, each around its mean),
        attention_entropy (of the augmented views' maps, in nats: log of the places where a map is even),
        attention_flat_rate (part of the images with a flat map), attention_spread (variance over images as part of all
        variance of the maps: 0 where they are the same for every image).
    """
    flat = is_flat(_filled(target, valid)) | is_flat(_filled(own, valid))
    a, b = ((each - _mean(each, valid)) * valid for each in (target, own))
    around_average, whole = mean((b - mean(b, 0)).square()), mean(b.square())
    return {
        "attention_agreement": mean((unit_length(a.flatten(1)) * unit_length(b.flatten(1))).sum(1)),
        "attention_entropy": mean(map_entropy(own * valid).to(b.dtype)),
        "attention_flat_rate": mean(flat.to(b.dtype)),
        "attention_spread": around_average / whole.clamp(min=torch.finfo(b.dtype).tiny),
    }


def _scaled(maps: Tensor, valid: Tensor, scale: Scale) -> Tensor:
    """Scale maps as if they consisted of their valid places."""
    return normalize(_filled(maps, valid) if scale == "minmax" else maps * valid, scale)


def _filled(maps: Tensor, valid: Tensor) -> Tensor:
    """Put into invalid places what lies between the lowest and the highest value of the valid ones."""
    return torch.where(valid, maps, _mean(maps, valid).detach())


def _mean(maps: Tensor, valid: Tensor) -> Tensor:
    axes = tuple(range(1, maps.ndim))
    return (maps * valid).sum(axes, keepdim=True) / valid.sum(axes, keepdim=True).clamp(min=1)


def _coarse(valid: Tensor, size: Size) -> Tensor:
    """Return which part of each cell of a grid is valid: (U, H, W) bool -> (U, h, w)."""
    return F.adaptive_avg_pool2d(valid.float()[:, None], size).squeeze(1)


def _enlarged(maps: Tensor, size: Size) -> Tensor:
    flat = maps.flatten(0, -3)[:, None]
    return F.interpolate(flat, size, mode="bilinear", align_corners=False).view(*maps.shape[:-2], *size)
