"""`eke explain`: what a trained network makes of single images, as a picture and the raw maps of each."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eke.data.images import ImageSet
from eke.engine.journal import RunFolder
from eke.engine.model_files import load_classifier, load_model
from eke.engine.processes import choose_device
from eke.errors import ConfigError, DataError, did_you_mean
from eke.files import write_atomic
from eke.progress import Progress, silent
from eke.report.page import Block, Page, Section, Text, write_page
from eke.report.words import count
from eke.tasks.activation_maps import ACTIVATIONS, N_CHANNELS, activation_kind, evenly_spread
from eke.tasks.attention_maps import MAPS
from eke.tasks.before_after import Contender, before_after_kind
from eke.tasks.explanation import Kind, Subject
from eke.tasks.faithfulness import Faithfulness, faithfulness, faithfulness_section, in_words
from eke.tasks.prepare import open_pixels
from eke.tasks.side_by_side import PREDICTED, TRUE, attention_kind
from eke.tasks.train import clip_notes

BATCH = 8
"""Images that go through the network together."""


def explain(
    run: Path,
    source: str,
    out: Path,
    *,
    maps: tuple[str, ...] = (),
    layers: tuple[str, ...] = (),
    wanted: str = PREDICTED,
    against: tuple[Path, ...] = (),
    n_images: int = 8,
    n_channels: int = N_CHANNELS,
    faithful: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write one picture per image, the raw maps beside it, and an index page of all.

    Args:
        run: a finished run folder.
        source: anything that `open_images` takes.
        out: folder to write to; files of the same names are replaced.
        maps: "activations" alone, or names in `MAPS`; by default activations, and with `against` gradcam.
        layers: names of layers; by default four for activations, from the earliest to the deepest, else the deepest.
        wanted: the class that attention maps explain: "predicted", "true", or its name.
        against: further runs, to be laid out below `run` as before and after, with one map of one layer.
        n_images: how many images, spread evenly over the source; for "true" over its labeled images.
        n_channels: how many channels of each layer, for activations.
        faithful: whether to measure attention maps by deletion and insertion, which takes 66 passes for each map.
        progress: shows hashing, decoding and explaining.

    Returns:
        page, map, layers, images (path, label, predicted, picture and raw maps of each; label and predicted are None
        where they are not known), and the problems of images that were set aside. For attention maps also the classes'
        probabilities and which maps are flat; with `against` per run, in `runs` of an image, with the agreement; with
        `faithful` the figures of `Faithfulness`.

    Raises:
        ConfigError: an unknown kind of map, layer or class, some that do not go together, or a number below 1.
        CheckpointError: a run is not finished or its files are damaged.
        DataError: the source cannot be used, or has no label where the true class is asked for.
    """
    maps = tuple(dict.fromkeys(maps)) or (("gradcam",) if against else (ACTIVATIONS,))
    layers = tuple(dict.fromkeys(layers))
    check_combination(maps, layers, wanted, against)
    check_faithful(faithful, maps, against, n_images)
    for name, value in (("images", n_images), ("channels", n_channels)):
        if value < 1:
            raise ConfigError(f"{value} {name} cannot be shown: ask for 1 at least.")
    device = choose_device("auto")
    load = load_model if maps == (ACTIVATIONS,) else load_classifier
    contenders = [Contender(each, *load(RunFolder(each).model, device)) for each in (run, *against)]
    _, network, card = contenders[0]
    if faithful and card.clip is not None:
        raise ConfigError("--faithful measures maps of images, and this run reads clips. Leave it out.")
    if against:
        kind = before_after_kind(contenders, maps[0], layers, wanted)
    elif maps == (ACTIVATIONS,):
        kind = activation_kind(network, card, layers, n_channels)
        if not kind.layers:
            h, w = card.size
            raise ConfigError(f"At {h}x{w} pixels no layer of {run} gives a map. Train with a larger data.size.")
    else:
        kind = attention_kind(network, card, maps, layers, wanted)
    images, cache, rows, problems = open_pixels(source, card, progress)
    if wanted == TRUE:
        rows, unlabeled = with_known_labels(images, rows, [set(each.card.classes) for each in contenders])
        problems += unlabeled
    chosen, entries, blocks = evenly_spread(rows, n_images), [], []
    measured: Faithfulness | None = None
    with progress("explaining", len(chosen)) as advance:
        for start in range(0, len(chosen), BATCH):
            batch = chosen[start : start + BATCH]
            subjects = [Subject(images.ids[row], images.paths[row], images.label_words(row)) for row in batch]
            explanations = kind.explain(cache.read(batch), subjects)
            if faithful:
                classes = [card.classes.index(each.facts["explained"]) for each in explanations]
                found = {name: torch.stack([e.maps[name] for e in explanations]) for name in explanations[0].maps}
                part = faithfulness(network, cache.read(batch), classes, found, seed=start)
                measured = part if measured is None else measured.then(part)
            for number, (subject, explained) in enumerate(zip(subjects, explanations, strict=True), start + 1):
                stem = f"{number:03d}-{safe_name(subject.path)}"
                picture, raw = out / f"{stem}.png", out / f"{stem}.npz"
                explained.write_picture(picture)
                save_maps(raw, explained.maps)
                blocks.append(explained.block)
                entry = {"path": subject.path, "label": subject.label, **explained.facts}
                entries.append({**entry, "picture": str(picture), "maps": str(raw)})
                advance(1)
    page = page_of(source, contenders, kind, blocks, len(rows))
    if measured is not None:
        page = replace(page, sections=[faithfulness_section(measured), *page.sections])
    write_page(out / "index.html", page)
    return {
        "page": str(out / "index.html"),
        "map": ",".join(kind.maps),
        "layers": list(kind.layers),
        "images": entries,
        "problems": problems,
        **({} if measured is None else {"faithfulness": measured.figures()}),
    }


def check_combination(maps: Sequence[str], layers: Sequence[str], wanted: str, against: Sequence[Path]) -> None:
    """Refuse maps that do not exist, and what does not go together.

    Raises:
        ConfigError: with what to do instead.
    """
    for map_ in maps:
        if map_ not in (ACTIVATIONS, *MAPS):
            raise ConfigError(f"There is no map {map_!r}. {did_you_mean(map_, [ACTIVATIONS, *MAPS])}")
    if ACTIVATIONS in maps and (len(maps) > 1 or against):
        raise ConfigError(
            f"--map {ACTIVATIONS} shows channels, and no place to look at: it goes with neither other maps nor "
            "--against. Ask for it in a command of its own."
        )
    if ACTIVATIONS in maps and wanted != PREDICTED:
        raise ConfigError(f"--class chooses what attention maps explain, and {ACTIVATIONS} do not: add --map gradcam.")
    if against and (len(maps) > 1 or len(layers) > 1):
        raise ConfigError("--against compares runs by one map of one layer: give one --map and at most one --layer.")


def check_faithful(faithful: bool, maps: Sequence[str], against: Sequence[Path], n_images: int) -> None:
    """Refuse to measure what is no attention map of one run, or too few images for an interval.

    Raises:
        ConfigError: with what to do instead.
    """
    if faithful and (ACTIVATIONS in maps or against):
        raise ConfigError("--faithful measures attention maps of one run: name them, such as --map gradcam.")
    if faithful and n_images < 2:
        raise ConfigError(f"--faithful over {n_images} image has no interval. Ask for more, such as --n 50.")


def with_known_labels(
    images: ImageSet, rows: Sequence[int], known: Sequence[set[str]]
) -> tuple[list[int], list[dict[str, str]]]:
    """Keep the rows whose label every run knows, and say which images were set aside for want of one.

    Args:
        images: of the source.
        rows: those that can be read.
        known: the classes of each run.

    Raises:
        DataError: none is left; the message names an image.
    """
    kept, problems = [], []
    for row in rows:
        label = images.label_words(row)
        if label is not None and all(label in classes for classes in known):
            kept.append(row)
            continue
        detail = "it has no label" if label is None else f"the network knows no class {label!r}"
        if images.several and label is not None:
            detail = f"its label is not one class: {label}"
        remedy = "Label it, name a class (--class cat), or leave out --class true."
        problems.append({"path": images.paths[row], "kind": "unlabeled", "detail": detail, "remedy": remedy})
    if problems and not kept:
        path, detail = problems[0]["path"], problems[0]["detail"]
        raise DataError(
            f"--class true explains the label of an image, and none of these {count(len(rows), 'image')} has one that "
            f"can be explained: {path}: {detail}. Use --class predicted or the name of a class."
        )
    return kept, problems


def safe_name(path: str) -> str:
    """Make a file name of an image's path: its last part, letters and digits only, at most 60."""
    name = re.sub(r"[^\w-]+", "-", Path(path).name).strip("-")
    return name[-60:] or "image"


def save_maps(path: Path, maps: dict[str, Tensor]) -> None:
    """Write maps as an .npz, name -> array, atomically; it holds arrays only, no code."""
    arrays: Any = {name: map_.numpy() for name, map_ in maps.items()}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_atomic(path, write)


def page_of(source: str, contenders: Sequence[Contender], kind: Kind, blocks: Sequence[Block], n_rows: int) -> Page:
    """Lay all images out on one page."""
    run, _, card = contenders[0]
    facts = [("Map", ", ".join(kind.maps)), ("Layers", ", ".join(kind.layers)), ("Model", card.model.name)]
    return Page(
        title=kind.title.format(source=source, run=run),
        headline=[f"{kind.claim.format(model=card.model.name)} in {len(blocks):,} of {n_rows:,} images."],
        facts=[(name, value) for name, value in facts if value],
        sections=[Section(kind.section, [Text(" ".join([kind.in_words, *clip_notes(card)])), *blocks])],
    )


def render(explained: dict[str, Any]) -> str:
    """Lay the result out as text: each image with its picture, and the page."""
    layers = f", layers {', '.join(explained['layers'])}" if explained["layers"] else ""
    lines = [f"{count(len(explained['images']), 'image')}{layers}", ""]
    for image in explained["images"]:
        label = "" if image["label"] is None else f", labeled {image['label']}"
        lines.append(f"  {image['path']}{label}{_taken_for(image)}")
        lines += [f"      {each['run']}{_taken_for(each)}{_agreement(each)}" for each in image.get("runs", ())]
        lines += [f"      {name} is flat" for name, flat in image.get("flat", {}).items() if flat]
        lines.append(f"      {image['picture']}")
    if explained["problems"]:
        lines += ["", f"Set aside: {count(len(explained['problems']), 'image')} (--json names them)"]
    if "faithfulness" in explained:
        lines += [
            "",
            "Areas under the curves, less those of random maps (deletion is good where it is low, insertion where it "
            "is high):",
        ]
        lines += [f"  {line}" for line in in_words(explained["faithfulness"])]
    return "\n".join([*lines, "", f"page  {explained['page']}"])


def _taken_for(facts: dict[str, Any]) -> str:
    return "" if facts.get("predicted") is None else f", taken for {facts['predicted']}"


def _agreement(facts: dict[str, Any]) -> str:
    return ", a map is flat" if facts["agreement"] is None else f", agreement {facts['agreement']:.2f}"
