"""Attention maps side by side: each image beside every map of every layer, for one class."""

from collections.abc import Sequence

import torch
from torch import Tensor

from eke.engine.model_files import ModelCard
from eke.errors import ConfigError, did_you_mean
from eke.explain.overlay import overlay
from eke.explain.scale import is_flat
from eke.models.network import Network
from eke.report.attention_sheet import ATTENTION_IN_WORDS, attention_sheet, write_sheet
from eke.report.content import AttentionMap, AttentionReport, Decision
from eke.report.pictures import Image, middle_frame, middle_map, picture_of
from eke.tasks.attention_maps import OF_PIXELS, SIGNED, as_input, attention_maps, check_maps, deepest_layer
from eke.tasks.explanation import Explanation, Kind, Subject

PREDICTED, TRUE = "predicted", "true"
"""The words that --class takes beside the names of classes; they win over classes of these names."""


def attention_kind(
    network: Network, card: ModelCard, maps: tuple[str, ...], layers: tuple[str, ...], wanted: str
) -> Kind:
    """Make the kind that lays attention maps side by side: each map of each layer.

    Args:
        network: in evaluation mode, with a class head.
        card: names its classes.
        maps: names in `MAPS`.
        layers: by default the deepest.
        wanted: the class that is explained; see `decide`.

    Raises:
        ConfigError: the layers or the class do not fit.
    """
    check_maps(maps, layers)
    check_class(wanted, card)
    if not layers and not OF_PIXELS.issuperset(maps):
        layers = (deepest_layer(network, card.size),)

    def explain(pixels: Tensor, subjects: Sequence[Subject]) -> list[Explanation]:
        images = pixels.to(network.mean.device)
        classes, decisions = decide(network, card, images, subjects, wanted)
        found = attention_maps(network, images, classes, maps, layers)
        return [
            _explanation(image, subject, decision, {name: each[i] for name, each in found.items()})
            for i, (image, subject, decision) in enumerate(zip(pixels, subjects, decisions, strict=True))
        ]

    return Kind(
        maps,
        layers,
        title="Where {run} looks in {source}",
        claim="Where {model} looks",
        section="Attention maps",
        in_words=ATTENTION_IN_WORDS,
        explain=explain,
    )


def check_class(wanted: str, card: ModelCard) -> None:
    """Refuse a class that the network does not know.

    Raises:
        ConfigError: with the name that was meant, where one is near.
    """
    if wanted not in (PREDICTED, TRUE, *card.classes):
        known = did_you_mean(wanted, card.classes)
        raise ConfigError(f"The network knows no class {wanted!r}. {known} --class also takes {PREDICTED} and {TRUE}.")


@torch.no_grad()
def decide(
    network: Network, card: ModelCard, images: Tensor, subjects: Sequence[Subject], wanted: str
) -> tuple[Tensor, list[Decision]]:
    """Say what each image is taken for, and which class of it is explained.

    Args:
        network: in evaluation mode, with a class head.
        card: names its classes.
        images: (N, C, H, W) uint8 on the network's device.
        subjects: N; for "true" each with a label that the network knows.
        wanted: "predicted", "true", or a name that the network knows.

    Returns:
        The explained classes (N,) int64 on the device, and both in words.
    """
    probs = network.kind.probabilities(network(as_input(images)).logits)
    predicted = probs.argmax(1).tolist()
    classes = predicted
    if wanted != PREDICTED:
        classes = [card.classes.index(str(subject.label) if wanted == TRUE else wanted) for subject in subjects]
    decisions = [
        Decision(card.classes[p], float(row[p]), card.classes[c], float(row[c]))
        for row, p, c in zip(probs.cpu(), predicted, classes, strict=True)
    ]
    return torch.tensor(classes, device=images.device), decisions


def remark(map_: Tensor, *, signed: bool = False) -> str:
    """Say why a map (h, w) shows nothing, or nothing where it does; of a clip's (t, h, w) the middle is shown."""
    map_ = middle_map(map_)
    if is_flat(map_[None]):
        return "flat: no place stands out"
    return "" if signed or bool((map_ > 0).any()) else "no place speaks for the class"


def heat(image: Tensor, map_: Tensor, *, signed: bool = False) -> Image:
    """Lay a map (h, w) over an image (C, H, W) uint8; small images are enlarged, so that the heat is smooth.

    Of a clip (C, T, H, W) and its map (t, h, w), the middle of both is shown.

    Returns:
        (H', W', 3) uint8.
    """
    image = middle_frame(image)
    times = max(1, 160 // max(image.shape[1:]))
    enlarged = image.repeat_interleave(times, 1).repeat_interleave(times, 2)
    return picture_of(overlay(enlarged, middle_map(map_), signed=signed))


def _explanation(image: Tensor, subject: Subject, decision: Decision, maps: dict[str, Tensor]) -> Explanation:
    shown = []
    for name, map_ in maps.items():
        kind, _, layer = name.partition("@")
        signed, (h, w) = kind in SIGNED, map_.shape[-2:]
        shown.append(AttentionMap(kind, layer, (h, w), heat(image, map_, signed=signed), remark(map_, signed=signed)))
    sheet = attention_sheet(AttentionReport(picture_of(image), subject.path, subject.label, decision, shown))
    facts = {**decision._asdict(), "flat": {name: bool(is_flat(map_[None])) for name, map_ in maps.items()}}
    return Explanation(sheet, lambda path: write_sheet(path, sheet), maps, facts)
