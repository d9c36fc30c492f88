"""Before and after: do runs look at the same place of an image and of an augmented view of it? One row per run.

The layout is that of figure 2 of Semi-supervised Image Classification with Grad-CAM Consistency (Lee and Cho): the
image, its map, the augmented view, its map, and the image's map cut as the view was cut, which the view's map would
be if the run were consistent.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from eke.augment.geometry import View, identity
from eke.augment.presets import PRESETS
from eke.engine.model_files import ModelCard
from eke.errors import ConfigError
from eke.explain.scale import is_flat, normalize
from eke.methods.terms import diagnostics, on_one_grid
from eke.models.network import Network
from eke.randomness import rng
from eke.report.attention_sheet import CONSISTENCY_IN_WORDS, consistency_sheet, write_sheet
from eke.report.content import ConsistencyReport, ConsistencyRow, Decision
from eke.report.pictures import picture_of
from eke.tasks.attention_maps import OF_PIXELS, SIGNED, as_input, attention_maps, check_maps, deepest_layer
from eke.tasks.explanation import Explanation, Kind, Subject
from eke.tasks.side_by_side import check_class, decide, heat, remark

PRESET = PRESETS["crop-rotate-jitter"]
"""Makes the augmented views."""


class Contender(NamedTuple):
    """One of the runs that are compared."""

    run: Path
    network: Network
    card: ModelCard


class ViewMaps(NamedTuple):
    """Maps of a batch of N images and of their augmented views, for the same classes; on the CPU."""

    original: Tensor
    """(N, h, w) of the images, (N, t, h, w) of clips; so are all."""
    augmented: Tensor
    """(N, h, w) of the views."""
    target: Tensor
    """(N, h, w): `original` as the views were cut."""
    valid: Tensor
    """(N, h, w) bool: where a view shows its own place of the image."""


class Compared(NamedTuple):
    """What a run makes of a batch of N images and of their augmented views."""

    name: str
    """MAP@LAYER."""
    decisions: list[Decision]
    """N, about the images."""
    maps: ViewMaps


def before_after_kind(contenders: Sequence[Contender], map_: str, layers: tuple[str, ...], wanted: str) -> Kind:
    """Make the kind that compares a map of an image with that of an augmented view of it, for several runs.

    Args:
        contenders: the first is "before". Networks are in evaluation mode, with class heads.
        map_: a name in `MAPS`.
        layers: one at most; by default the deepest of each run.
        wanted: the class that is explained; see `decide`.

    Raises:
        ConfigError: the runs read different images, or layers or class do not fit.
    """
    check_maps((map_,), layers)
    first = contenders[0]
    for run, _, card in contenders:
        check_class(wanted, card)
        if reads(card) != reads(first.card):
            raise ConfigError(
                f"{run} reads {reads(card)} and {first.run} {reads(first.card)}: only runs that read the same images "
                "are compared."
            )
    chosen = [layers or _default(each, map_) for each in contenders]

    def explain(pixels: Tensor, subjects: Sequence[Subject]) -> list[Explanation]:
        view = augmented_views(pixels, [subject.id for subject in subjects])
        results = [
            compare(each, pixels, view, subjects, map_, names, wanted)
            for each, names in zip(contenders, chosen, strict=True)
        ]
        runs = [str(each.run) for each in contenders]
        return [_explanation(pixels, view, subject, runs, results, i) for i, subject in enumerate(subjects)]

    others = ", ".join(str(each.run) for each in contenders[1:])
    return Kind(
        (map_,),
        tuple(dict.fromkeys(name for names in chosen for name in names)),
        title="Where {run} looks in {source}, and after it " + others.replace("{", "{{").replace("}", "}}"),
        claim="Where {model} looks before and after",
        section="Before and after",
        in_words=CONSISTENCY_IN_WORDS,
        explain=explain,
    )


def reads(card: ModelCard) -> str:
    """Print what images a network reads: "32x32 pixels, 3 channels, fit crop"."""
    frames = "" if card.frames is None else f"{card.frames} frames of "
    return f"{frames}{card.size[0]}x{card.size[1]} pixels, {card.channels} channels, fit {card.fit}"


def augmented_views(pixels: Tensor, ids: Sequence[str]) -> View:
    """Make the augmented view of each image (N, C, [T,] H, W) uint8: the same one whenever and with whatever else."""
    channels, (h, w), views = pixels.shape[1], pixels.shape[-2:], []
    for image, name in zip(pixels, ids, strict=True):
        generator = rng(0, 0, f"explain/{name}")
        views.append(PRESET.apply(image[None], PRESET.draw(1, channels, (h, w), generator)))
    geometry = views[0].geometry._replace(matrix=torch.cat([view.geometry.matrix for view in views]))
    return View(torch.cat([view.pixels for view in views]), geometry, torch.cat([view.valid for view in views]))


def compare(
    contender: Contender,
    pixels: Tensor,
    view: View,
    subjects: Sequence[Subject],
    map_: str,
    layers: tuple[str, ...],
    wanted: str,
) -> Compared:
    """Compute a run's maps of images (N, C, [T,] H, W) uint8 and of their views, and cut the first as the second.

    Raises:
        ConfigError: the layer is unknown or gives no map, or the map is not defined for it; the message names the run.
    """
    run, network, card = contender
    classes, decisions = decide(network, card, pixels.to(network.mean.device), subjects, wanted)
    try:
        ((name, maps),) = maps_of_views(network, pixels, view, classes, map_, layers).items()
    except ConfigError as error:
        raise ConfigError(f"{run}: {error}") from None
    return Compared(name, decisions, maps)


def maps_of_views(
    network: Network, pixels: Tensor, view: View, classes: Tensor, map_: str, layers: Sequence[str]
) -> dict[str, ViewMaps]:
    """Compute the maps of images and of their views, and cut the first as the second.

    Args:
        network: in evaluation mode.
        pixels: (N, C, [T,] H, W) uint8 on the CPU.
        view: from `augmented_views`.
        classes: (N,) int64 on the network's device, what is explained of both.
        map_: a name in `MAPS`.
        layers: whose maps; those of pixels read none.

    Returns:
        By MAP@LAYER.

    Raises:
        ConfigError: as for `attention_maps`.
    """
    device = network.mean.device
    originals = attention_maps(network, pixels.to(device), classes, (map_,), layers)
    augmented = attention_maps(network, as_bytes(view).to(device), classes, (map_,), layers)
    n, size = len(pixels), (pixels.shape[-2], pixels.shape[-1])
    whole = View(as_input(pixels), identity(n, size), torch.ones(n, *size, dtype=torch.bool))
    found = {}
    for name, original in originals.items():
        target, own, valid = on_one_grid(original, augmented[name], whole, view, at_image=False)
        found[name] = ViewMaps(original, own, target, valid)
    return found


def as_bytes(view: View) -> Tensor:
    """Return the pixels of views (N, C, H, W) as the uint8 that they were made as."""
    return view.pixels.mul(255).round().to(torch.uint8)


def agreement(target: Tensor, own: Tensor, valid: Tensor) -> float | None:
    """Return the cosine of two maps (h, w), each around its mean over the valid places; None where one is flat."""
    a, b = (normalize(map_[None] * valid, "l2") for map_ in (target, own))  # values may be as small as 1e-12
    found = diagnostics(a, b, valid[None])
    return None if found["attention_flat_rate"] > 0 else float(found["attention_agreement"])


def _default(contender: Contender, map_: str) -> tuple[str, ...]:
    return () if map_ in OF_PIXELS else (deepest_layer(contender.network, contender.card.size),)


def _explanation(
    pixels: Tensor, view: View, subject: Subject, runs: Sequence[str], results: Sequence[Compared], i: int
) -> Explanation:
    """Lay out image `i` of a batch."""
    names = [f"{'after' if number else 'before'}: {run}" for number, run in enumerate(runs)]
    report = consistency_report(pixels, view, subject, names, results, i)
    facts = []
    maps: dict[str, Tensor] = {}
    for number, (run, result, row) in enumerate(zip(runs, results, report.rows, strict=True), 1):
        original, own, target, valid = (each[i] for each in result.maps)
        facts.append(
            {
                "run": run,
                **result.decisions[i]._asdict(),
                "map": result.name,
                "agreement": row.agreement,
                "flat": {"original": bool(is_flat(original[None])), "augmented": bool(is_flat(own[None]))},
            }
        )
        named = {"original": original, "augmented": own, "target": target, "valid": valid}
        maps |= {f"{name}-{number}": each for name, each in named.items()}
    sheet = consistency_sheet(report)
    return Explanation(sheet, lambda path: write_sheet(path, sheet), maps, {"runs": facts})


def consistency_report(
    pixels: Tensor, view: View, subject: Subject, names: Sequence[str], results: Sequence[Compared], i: int
) -> ConsistencyReport:
    """Lay the maps of image `i` of a batch over it and over its view, one row per run, called by its name."""
    image, augmented = pixels[i], as_bytes(view)[i]
    rows = []
    for name, result in zip(names, results, strict=True):
        signed = result.name.partition("@")[0] in SIGNED
        original, own, target, valid = (each[i] for each in result.maps)
        laid = ((image, original), (augmented, own), (augmented, target * valid))
        pictures = [(heat(under, map_, signed=signed), remark(map_, signed=signed)) for under, map_ in laid]
        rows.append(ConsistencyRow(name, result.decisions[i], result.name, pictures, agreement(target, own, valid)))
    return ConsistencyReport(picture_of(image), picture_of(augmented), subject.path, subject.label, rows)
