"""What one figure of a table's runs says of another: correlation over all runs, whatever row and seed they are of."""

import math
from collections.abc import Mapping, Sequence
from statistics import correlation
from typing import NamedTuple

from eke.tasks.grid import Done
from eke.tasks.grid_cells import Cell


class Relation(NamedTuple):
    """Two figures of the same cells."""

    x: str
    """Name among the cells' figures."""
    y: str
    words: str
    """What is correlated, for the page."""
    cells: Sequence[Cell]


MIN_RUNS = 4
"""Fewer have no interval."""


def in_words(relation: Relation, found: Mapping[str, Done]) -> str:
    """Say how far the two figures go together: Pearson's r with its 95 % interval (Fisher's z).

    Runs that lack one of the figures are left out.
    """
    figures = [found[cell.identity].figures for cell in relation.cells]
    pairs = [(each[relation.x], each[relation.y]) for each in figures if relation.x in each and relation.y in each]
    varied = all(len({*side}) > 1 for side in zip(*pairs, strict=True))
    if len(pairs) < MIN_RUNS or not varied:
        return f"{relation.words}: too few different figures ({len(pairs)} runs) for a correlation."
    r = correlation(*zip(*pairs, strict=True))
    half = 1.96 / math.sqrt(len(pairs) - 3)
    z = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, r)))  # of points on a line it would be infinite
    low, high = math.tanh(z - half), math.tanh(z + half)
    return (
        f"{relation.words}: r = {r:.2f} [{low:.2f} to {high:.2f}] over {len(pairs)} runs. Runs of a seed share their "
        "labels, so that the interval is too narrow."
    )
