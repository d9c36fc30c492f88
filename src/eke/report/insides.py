"""What the network makes of images: its embeddings on a plane, and the maps of its layers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eke.report.balance import most_confused
from eke.report.content import EmbeddingMap, LayerReport, LayerRow
from eke.report.drawing import N_SERIES
from eke.report.page import Block, Picture, Sheet, Text
from eke.report.pictures import heat_picture
from eke.report.scatter import embedding_map
from eke.report.words import count, percent


def embedding_blocks(
    shown: EmbeddingMap, confusion: NDArray[np.int64], classes: Sequence[str], split: str
) -> list[Block]:
    """Return the map of embeddings: colored by class, or by the classes that are most often confused.

    Args:
        shown: points with their classes.
        confusion: (K,K) counts of all evaluated images.
        classes: K names.
        split: what the evaluated images are called.
    """
    n, total, k = len(shown.labels), int(confusion.sum()), len(classes)
    # the palette's last color is too near to the grey of the others
    colored = list(range(k)) if k <= N_SERIES else most_confused(confusion, N_SERIES - 1)
    sample = f"{count(n, f'{split} image')}" if n == total else f"a sample of {n:,} of {total:,} {split} images"
    how = [f"Each mark is an image, {sample}; crosses are images that were taken for another class."]
    projection = shown.projection
    if projection.explained is not None:
        first, second = projection.explained
        how.append(
            "The axes are the two directions along which the network’s embeddings vary most (PCA); they hold "
            f"{percent(first + second)} of the variance ({percent(first)} and {percent(second)}), so classes that "
            "overlap here may be apart in the rest."
        )
    else:
        how.append(
            "The plane keeps neighbors in the network’s embedding together (UMAP): clusters mean something, distances "
            "between them and their sizes do not."
        )
    if colored and len(colored) < k:
        how.append("In color are the classes that are most often confused with each other.")
    title = f"Embeddings of the {split} images ({projection.name})"
    chart = embedding_map(title, projection.points, shown.labels, shown.predicted, classes, colored)
    return [Text(" ".join(how)), chart]


LAYERS_IN_WORDS = (
    "Each row is a layer, from the earliest to the deepest, with the channels whose maps vary most over the image, the "
    "liveliest first; bright is where a channel reacts most. Each map has a scale of its own."
)


def layer_sheet(shown: LayerReport) -> Sheet:
    """Return one image and, per layer, the maps that vary most over it."""
    original = Picture(shown.image, (), f"The image itself: {shown.path}")
    rows = [("the image", [original]), *((row_name(row), map_pictures(row)) for row in shown.rows)]
    return Sheet(image_in_words(shown), (), rows)


def image_in_words(shown: LayerReport) -> str:
    """Print "a.png, labeled cat, taken for dog", as far as it is known."""
    parts = [shown.path]
    if shown.true is not None:
        parts.append(f"labeled {shown.true}")
    if shown.predicted is not None:
        parts.append(f"taken for {shown.predicted}")
    return ", ".join(parts)


def row_name(row: LayerRow) -> str:
    """Print "layer1, 16×16, 64 channels"."""
    h, w = row.size
    return f"{row.layer}, {h}×{w}, {count(row.n_channels, 'channel')}"


def map_pictures(row: LayerRow) -> list[Picture]:
    """Return the maps of a row as pictures that name layer and channel."""
    return [
        Picture(heat_picture(values), (f"channel {channel}",), f"{row.layer}, channel {channel}")
        for channel, values in zip(row.channels, row.maps, strict=True)
    ]
