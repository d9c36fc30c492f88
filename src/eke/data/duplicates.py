"""Near duplicates: copies that were scaled, recompressed or slightly changed, without comparing all pairs."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

MAX_BITS = 4
"""Difference hashes of near duplicates differ in at most so many of 64 bits ..."""
MAX_DISTANCE = 10.0
"""... and their thumbnails in at most so many grey levels, root mean square."""
MAX_ALIKE = 32
"""Images that one is compared with in a band, at most: plain images would make the search quadratic."""


def near_duplicates(thumbnails: np.ndarray) -> np.ndarray:
    """Find the pairs of images that look alike.

    Hashes are cut into MAX_BITS + 1 bands; two that differ in at most MAX_BITS bits agree in one band or
    more, by the pigeonhole principle: only images that share a band are compared.

    Args:
        thumbnails: (N, 16, 18) uint8.

    Returns:
        (M, 2) int64 rows, the smaller first, sorted.
    """
    hashes = difference_hashes(thumbnails)
    edges = np.linspace(0, 64, MAX_BITS + 2).astype(np.uint64)
    found = [np.empty((0, 2), dtype=np.int64)]
    for low, high in pairwise(edges):
        band = (hashes >> low) & ((np.uint64(1) << (high - low)) - np.uint64(1))
        order = np.lexsort((hashes, band))
        for places in _alike(hashes[order], band[order]):
            pairs = np.sort(order[places], axis=1)
            found.append(pairs[_distance(thumbnails, pairs) <= MAX_DISTANCE])
    return np.unique(np.concatenate(found), axis=0)


def difference_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """Return the difference hash of each image: a bit for each cell of 8x9 that is darker than its right one.

    Krawetz, "Kind of like that" (2013). Here the bits of a band come from all over the image: a band of the
    border would be the same in all images with a plain background.

    Args:
        thumbnails: (N, 16, 18) uint8.

    Returns:
        (N,) uint64.
    """
    grid = thumbnails.reshape(-1, 8, 2, 9, 2).sum(axis=(2, 4), dtype=np.uint16)
    bits = (grid[:, :, 1:] > grid[:, :, :-1]).reshape(-1, 64)
    spread = np.argsort(np.arange(64) % (MAX_BITS + 1), kind="stable")
    packed = np.ascontiguousarray(np.packbits(bits[:, spread], axis=1))
    return packed.view(">u8")[:, 0].astype(np.uint64)


def _alike(hashes: np.ndarray, band: np.ndarray) -> Iterator[np.ndarray]:
    """Compare each place with the next of its band, then the second next, until no band is that long."""
    places = np.arange(len(hashes))
    for step in range(1, MAX_ALIKE + 1):
        places = places[places < len(hashes) - step]
        places = places[band[places] == band[places + step]]
        if not len(places):
            break
        near = places[np.bitwise_count(hashes[places] ^ hashes[places + step]) <= MAX_BITS]
        yield np.stack([near, near + step], axis=1)


def _distance(thumbnails: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    difference = thumbnails[pairs[:, 0]].astype(np.float32) - thumbnails[pairs[:, 1]]
    return np.sqrt(np.square(difference).mean(axis=(1, 2)))
