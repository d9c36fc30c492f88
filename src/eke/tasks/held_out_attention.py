"""Does a network's attention follow images that it was not trained on? Figures and pictures that need no label.

Maps are compared between each image and one augmented view of it that is the same for every network and every step, so
that curves and runs can be laid side by side.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eke.engine.model_files import ModelCard
from eke.explain.kept import hottest, keep
from eke.explain.scale import center_box, is_flat, normalize
from eke.methods.terms import AttentionOptions, diagnostics
from eke.metrics.statistics import paired_t
from eke.models.network import Network
from eke.tasks.attention_maps import as_input
from eke.tasks.before_after import ViewMaps, augmented_views, maps_of_views
from eke.tasks.measure import plain
from eke.tasks.prepare import Material

N_IMAGES = 128
AREA_RATE = 0.25
"""Of the image: what is kept of it, and the box in the center."""
N_DECIDING = 30
"""Fewer images cannot tell a map from the box."""
COLLAPSED_FLAT_RATE, COLLAPSED_SPREAD = 0.5, 0.25
"""Attention maps say nothing above the one, or below the other."""


class HeldOut(NamedTuple):
    """Images without their labels."""

    pixels: Tensor
    """(N, C, [T,] H, W) uint8 on the CPU."""
    ids: Sequence[str]


def held_out(material: Material, name: str) -> HeldOut:
    """Return images of validation or test without their labels: the first ones by id, so that they are of any class."""
    part = material.part(name)
    rows = part.rows[:N_IMAGES]
    return HeldOut(part.pixels.read(rows).cpu(), [part.images.ids[row] for row in rows])


def measure_attention(network: Network, options: AttentionOptions | None, material: Material) -> dict[str, Any] | None:
    """Return, as plain values, what can be said of a trained network's attention.

    Args:
        network: in evaluation mode, with a class head.
        options: of the term that it was trained with; None: it had none.
        material: of the run; validation images are looked at or, where there are none, test images.

    Returns:
        part, n, map, layers, what `consistency` says, and `kept`; None without a term, or where less than two images
        are held out.
    """
    parts = material.evaluated()
    if options is None or not parts or len(material.part(parts[0]).rows) < 2:
        return None
    images = held_out(material, parts[0])
    return {
        "part": parts[0],
        "n": len(images.ids),
        "map": options.map,
        "layers": list(options.layer),
        **consistency(network, images, options),
        "kept": keep_marked(network, material.pools.card, images, options),
    }


def consistency(network: Network, images: HeldOut, options: AttentionOptions) -> dict[str, float]:
    """Compare the maps of images with those of their augmented views, mean over layers.

    Args:
        network: in evaluation mode, with a class head.
        images: what it looks at.
        options: name the map and the layers.

    Returns:
        attention_agreement, attention_entropy, attention_flat_rate and attention_spread; see `diagnostics`.
    """
    _, maps = _look(network, images, options)
    found = []
    for _, own, target, valid in maps.values():
        a, b = (normalize(each * valid, "l2") for each in (target, own))
        found.append(diagnostics(a, b, valid, torch.mean))
    return {name: float(torch.stack([each[name] for each in found]).mean()) for name in found[0]}


def keep_marked(
    network: Network, card: ModelCard, images: HeldOut, options: AttentionOptions
) -> dict[str, dict[str, Any]]:
    """Keep what the maps mark, and see what becomes of the prediction, beside a box in the center.

    Args:
        network: in evaluation mode, with a class head.
        card: of the network.
        images: what it looks at.
        options: name the map and the layers.

    Returns:
        By MAP@LAYER the mean probability of the predicted class: `whole`, of the image; `marked`, where the hottest
        quarter of the map is kept (a flat map marks no place and counts as the box); `box`, where the box is kept.
        `difference`: marked less box, over images. `collapsed`: whether it is not seen to be above 0; never of fewer
        than 30 images, which cannot tell.
    """
    classes, maps = _look(network, images, options)
    device = network.mean.device
    pixels, fill = as_input(images.pixels.to(device)), torch.tensor(card.mean, device=device)
    box = center_box(*card.size, AREA_RATE).to(device)
    whole, in_box = (_probability(network, each, classes) for each in (pixels, keep(pixels, box, fill)))
    found = {}
    for name, (original, *_) in maps.items():
        marked = hottest(original.to(device), card.shape[1:], AREA_RATE)
        marked[is_flat(original)] = box
        in_marked = _probability(network, keep(pixels, marked, fill), classes)
        difference = paired_t(in_marked.numpy(), in_box.numpy())
        found[name] = {
            "whole": float(whole.mean()),
            "marked": float(in_marked.mean()),
            "box": float(in_box.mean()),
            "difference": {**plain(difference.interval), "p": difference.p},
            "collapsed": len(images.ids) >= N_DECIDING and not difference.interval.low > 0,
        }
    return found


def _look(network: Network, images: HeldOut, options: AttentionOptions) -> tuple[Tensor, dict[str, ViewMaps]]:
    """Return the classes (N,) that are predicted and explained, on the network's device, and the maps."""
    with torch.no_grad():
        classes = _logits(network, as_input(images.pixels.to(network.mean.device))).argmax(1)
    view = augmented_views(images.pixels, images.ids)
    return classes, maps_of_views(network, images.pixels, view, classes, options.map, options.layer)


@torch.no_grad()
def _probability(network: Network, images: Tensor, classes: Tensor) -> Tensor:
    """Return (N,) on the CPU."""
    return network.kind.probabilities(_logits(network, images)).gather(1, classes[:, None])[:, 0].cpu()


def _logits(network: Network, images: Tensor) -> Tensor:
    """Return (N, K); as many frames of clips at once as there are images otherwise."""
    return torch.cat([network(part).logits for part in images.split(max(1, N_IMAGES // (network.frames or 1)))])


def attention_notes(lines: list[dict[str, Any]], n_steps: int) -> list[str]:
    """Say where attention maps agree at the end because they say nothing: flat, or the same for every image.

    Args:
        lines: of the journal.
        n_steps: of the run; its last tenth is looked at, or its last line.
    """
    logged = [line for line in lines if "attention_flat_rate" in line]
    last = [line for line in logged if line["step"] > 0.9 * n_steps] or logged[-1:]
    if not last:
        return []
    flat = fmean(line["attention_flat_rate"] for line in last)
    spread = fmean(line.get("attention_spread", 1.0) for line in last)
    if flat > COLLAPSED_FLAT_RATE:
        found = f"{100 * flat:.0f} % of the images have a flat map"
    elif spread < COLLAPSED_SPREAD:
        found = f"they are nearly the same for every image ({100 * spread:.1f} % of their variance is between images)"
    else:
        return []
    return [
        f"The attention maps have collapsed: {found}, so that they agree without looking anywhere. Lower the weight of "
        "the attention term, let it grow slowly (attention.ramp_rate), or take attention.loss=contrastive."
    ]


def box_notes(attention: dict[str, Any] | None) -> list[str]:
    """Say which maps are not seen to mark more of what the network decides by than a box in the center does."""
    if attention is None:
        return []
    return [
        f"The attention maps {name} have collapsed: they are not seen to be better than a box in the center. Of "
        f"{attention['n']} {attention['part']} images, the quarter that a map marks keeps {100 * each['marked']:.0f} % "
        f"of the predicted class's probability where the box keeps {100 * each['box']:.0f} %."
        for name, each in attention["kept"].items()
        if each["collapsed"]
    ]
