"""`eke explain`: what a trained network makes of single images, as a picture and the raw maps of each."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eke.engine.journal import RunFolder
from eke.engine.model_files import load_model
from eke.engine.processes import choose_device
from eke.errors import ConfigError
from eke.explain.activations import liveliest_channels, scaled_to_unit
from eke.files import write_atomic
from eke.models.network import Network
from eke.models.network import layers as find_layers
from eke.progress import Progress, silent
from eke.report.content import LayerReport, LayerRow
from eke.report.insides import LAYERS_IN_WORDS, layer_sheet
from eke.report.page import Page, Section, Text, write_page
from eke.report.pictures import picture_of
from eke.report.sheet import write_layer_sheet
from eke.report.words import count
from eke.tasks.prepare import open_pixels

N_LAYERS = 4
"""Layers that are shown where none is named."""
N_CHANNELS = 8
"""Channels of each."""


class Explained(NamedTuple):
    """What the network makes of one image."""

    predicted: int
    """The class that it is taken for."""
    rows: list[LayerRow]
    """The maps to show, per layer."""
    maps: dict[str, Tensor]
    """Layer -> all its maps (C, h, w), float32 on the CPU, as the network computes them."""


@torch.inference_mode()
def activations(network: Network, pixels: Tensor, layers: Sequence[str], n_channels: int) -> Explained:
    """Take the feature maps of one image and choose the channels whose maps vary most over it.

    Args:
        network: in evaluation mode.
        pixels: (C, H, W) uint8 on the network's device.
        layers: names of layers; see `eke.models.network.layers`.
        n_channels: how many channels to show of each layer.

    Raises:
        ConfigError: a layer is unknown or gives no map.
    """
    outputs = network(pixels[None].float().div(255), taps=layers)
    maps = {name: features[0].float().cpu() for name, features in outputs.features.items()}
    rows = []
    for name, layer in maps.items():
        chosen = liveliest_channels(layer, n_channels)
        h, w = layer.shape[-2:]
        shown = scaled_to_unit(layer[chosen])
        rows.append(LayerRow(name, (h, w), len(layer), chosen.tolist(), shown.numpy()))
    return Explained(int(outputs.logits[0].argmax()), rows, maps)


MAPS: dict[str, Callable[[Network, Tensor, Sequence[str], int], Explained]] = {"activations": activations}
"""Kinds of maps by the name that --map takes."""


def explain(
    run: Path,
    source: str,
    out: Path,
    *,
    map_: str = "activations",
    layers: tuple[str, ...] = (),
    n_images: int = 8,
    n_channels: int = N_CHANNELS,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write one picture per image, the raw maps beside it, and an index page of all.

    Args:
        run: a finished run folder.
        source: anything that `open_images` takes.
        out: folder to write to; files of the same names are replaced.
        map_: which kind of map; one of `MAPS`.
        layers: names of layers; by default four, from the earliest to the deepest.
        n_images: how many images, spread evenly over the source.
        n_channels: how many channels of each layer.
        progress: shows hashing, decoding and explaining.

    Returns:
        page, map, layers, images (path, label, predicted, picture and raw maps of each; label and predicted are None
        where they are not known), and the problems of images that were set aside.

    Raises:
        ConfigError: an unknown kind of map or layer, or a number below 1.
        CheckpointError: the run is not finished or its files are damaged.
        DataError: the source cannot be used.
    """
    if map_ not in MAPS:
        raise ConfigError(f"There is no map {map_!r}. Known: {', '.join(MAPS)}.")
    for name, value in (("images", n_images), ("channels", n_channels)):
        if value < 1:
            raise ConfigError(f"{value} {name} cannot be shown: ask for 1 at least.")
    device = choose_device("auto")
    network, card = load_model(RunFolder(run).model, device)
    names = layers or default_layers(network, card.size)
    if not names:
        h, w = card.size
        raise ConfigError(f"At {h}x{w} pixels no layer of {run} gives a map. Train with a larger data.size.")
    images, cache, rows, problems = open_pixels(source, card, progress)
    entries, sheets = [], []
    chosen = evenly_spread(rows, n_images)
    with progress("explaining", len(chosen)) as advance:
        for number, row in enumerate(chosen, 1):
            pixels = cache.read([row])[0]
            explained = MAPS[map_](network, pixels.to(device), names, n_channels)
            shown = LayerReport(
                picture_of(pixels),
                images.paths[row],
                true=images.classes[images.labels[row]] if images.labels[row] >= 0 else None,
                predicted=card.classes[explained.predicted] if card.classes else None,
                rows=explained.rows,
            )
            stem = f"{number:03d}-{safe_name(shown.path)}"
            picture, raw = out / f"{stem}.png", out / f"{stem}.npz"
            write_layer_sheet(picture, shown)
            save_maps(raw, explained.maps)
            sheets.append(layer_sheet(shown))
            entries.append(
                {
                    "path": shown.path,
                    "label": shown.true,
                    "predicted": shown.predicted,
                    "picture": str(picture),
                    "maps": str(raw),
                }
            )
            advance(1)
    page = Page(
        title=f"{source} through the layers of {run}",
        headline=[f"What the layers of {card.model.name} see in {len(chosen):,} of {len(rows):,} images."],
        facts=[("Map", map_), ("Layers", ", ".join(names)), ("Model", card.model.name)],
        sections=[Section("Feature maps", [Text(LAYERS_IN_WORDS), *sheets])],
    )
    write_page(out / "index.html", page)
    return {
        "page": str(out / "index.html"),
        "map": map_,
        "layers": list(names),
        "images": entries,
        "problems": problems,
    }


def default_layers(network: Network, size: tuple[int, int]) -> tuple[str, ...]:
    """Return up to four layers, spread evenly from the earliest to the deepest that give a map.

    Layers that are made of others (blocks, stages) come first; single operations are taken where there are too few.

    Args:
        network: whose layers.
        size: (H, W) of its images.

    Returns:
        Their names; none where no layer gives a map of more than one pixel.
    """
    every = find_layers(network, size)
    blocks = [name for name in every if any(other.startswith(f"{name}.") for other in every)]
    return tuple(evenly_spread(blocks if len(blocks) >= N_LAYERS else every, N_LAYERS))


def evenly_spread(values: Sequence[Any], n: int) -> list[Any]:
    """Return `n` of the values, or all where there are fewer, the first and the last among them."""
    places = np.linspace(0, len(values) - 1, min(n, len(values))).round().astype(int)
    return [values[place] for place in places]


def safe_name(path: str) -> str:
    """Make a file name of an image's path: its last part, letters and digits only, at most 60."""
    name = re.sub(r"[^\w-]+", "-", Path(path).name).strip("-")
    return name[-60:] or "image"


def save_maps(path: Path, maps: dict[str, Tensor]) -> None:
    """Write maps as an .npz, layer -> (C, h, w) float32, atomically; it holds arrays only, no code."""
    arrays: Any = {name: layer.numpy() for name, layer in maps.items()}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_atomic(path, write)


def render(explained: dict[str, Any]) -> str:
    """Lay the result out as text: each image with its picture, and the page."""
    lines = [f"{count(len(explained['images']), 'image')}, layers {', '.join(explained['layers'])}", ""]
    for image in explained["images"]:
        label = "" if image["label"] is None else f", labeled {image['label']}"
        taken = "" if image["predicted"] is None else f", taken for {image['predicted']}"
        lines += [f"  {image['path']}{label}{taken}", f"      {image['picture']}"]
    if explained["problems"]:
        lines += ["", f"Set aside: {count(len(explained['problems']), 'image')} (--json names them)"]
    return "\n".join([*lines, "", f"page  {explained['page']}"])
