"""What every kind of `eke explain` takes and gives: named images in, a sheet and the raw maps of each out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from eke.report.page import Block


class Subject(NamedTuple):
    """What is known of an image beside its pixels."""

    id: str
    """Hash of its bytes."""
    path: str
    label: str | None
    """The name of its class; None where it is not labeled."""


class Explanation(NamedTuple):
    """What is written about one image."""

    block: Block
    """Its part of the page."""
    write_picture: Callable[[Path], None]
    """Writes the same as a PNG file of its own."""
    maps: dict[str, Tensor]
    """Name -> raw maps, on the CPU."""
    facts: dict[str, Any]
    """What `--json` says of it beside path, label and files."""


Explain = Callable[[Tensor, Sequence[Subject]], list[Explanation]]
"""Explains a batch: pixels (N, C, H, W) uint8 on the CPU, and their N subjects."""


@dataclass(frozen=True)
class Kind:
    """One kind of maps, ready to explain images."""

    maps: tuple[str, ...]
    """As --map names them."""
    layers: tuple[str, ...]
    """Whose maps are taken; empty where those of pixels are."""
    title: str
    """Of the page, with places for {source} and {run}."""
    claim: str
    """What the page shows, with a place for {model}; it goes on "in 8 of 100 images"."""
    section: str
    """Heading above all images."""
    in_words: str
    """How its sheets are read."""
    explain: Explain
