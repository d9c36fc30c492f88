"""The arithmetic of splits: an order that depends on ids alone, whom a rate takes, how a budget is shared."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np


def order_of(ids: Sequence[str], seed: int) -> np.ndarray:
    """Return the rank (n,) int64 of each id in an order drawn by (seed, id) alone, not by the rows."""
    keys = [blake2b(f"{seed}/{name}".encode(), digest_size=16).digest() for name in ids]
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[sorted(range(len(ids)), key=keys.__getitem__)] = np.arange(len(ids))
    return ranks


def strata_of(labels: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Return the stratum (n,) int64 in which each image is divided: its class, or the rarest of its classes.

    Args:
        labels: (n,) or (n, K) as of `ImageSet`.
        counted: (n,) bool: the labeled images that say how rare a class is.

    Returns:
        (n,): -1 where unlabeled; K for images with none of the classes. Of equally rare classes the first counts.
    """
    if labels.ndim == 1:
        return labels
    rarity = np.argsort(labels[counted].sum(0), kind="stable")  # from the rarest class
    has = labels[:, rarity] > 0
    strata = np.where(has.any(1), rarity[has.argmax(1)], labels.shape[1])
    return np.where((labels >= 0).all(1), strata, -1)


def by_class(rows: np.ndarray, labels: np.ndarray, ranks: np.ndarray, n_classes: int) -> list[np.ndarray]:
    """Return, for each class, its rows among `rows` in the order of their ranks."""
    ordered = rows[np.argsort(ranks[rows], kind="stable")]
    return [ordered[labels[ordered] == label] for label in range(n_classes)]


def take_rate(classes: Sequence[np.ndarray], rate: float) -> np.ndarray:
    """Choose floor(n * rate) of the first n rows of each class, for every n at once.

    Place i is chosen where floor((i + 1) * rate) > floor(i * rate): so what is chosen, and what is not, among
    the first n rows is part of what is chosen, and what is not, among the first n + 1.
    """
    chosen = [rows[np.diff(floor_rate(np.arange(len(rows) + 1), rate)) > 0] for rows in classes]
    return np.concatenate(chosen)


def floor_rate(n: np.ndarray, rate: float) -> np.ndarray:
    """Return floor(n * rate), not misled by 0.29 * 100 = 28.999999999999996."""
    return np.floor(n * rate + 1e-9).astype(np.int64)


def take_groups(
    rows: np.ndarray, labels: np.ndarray, groups: Sequence[str], seed: int, rate: float, n_classes: int
) -> np.ndarray:
    """Choose whole groups that hold about `rate` of each class.

    Groups come in an order drawn by (seed, group). Each is chosen if that brings the chosen part of each
    class, relative to the size of the class, nearer to `rate` of what was seen so far.
    """
    totals = np.maximum(np.bincount(labels[rows], minlength=n_classes), 1)
    members: dict[str, list[int]] = {}
    for row in rows.tolist():
        members.setdefault(groups[row], []).append(row)
    names = list(members)
    ranks = order_of(names, seed)
    chosen: list[int] = []
    seen, taken = np.zeros(n_classes), np.zeros(n_classes)
    for place in np.argsort(ranks).tolist():
        mine = members[names[place]]
        share = np.bincount(labels[mine], minlength=n_classes) / totals
        seen += share
        if np.square(taken + share - rate * seen).sum() < np.square(taken - rate * seen).sum():
            taken += share
            chosen += mine
    return np.array(sorted(chosen), dtype=np.int64)


def share_labels(counts: np.ndarray, n: int) -> np.ndarray:
    """Share n labels among classes in proportion to `counts`, at least one each, none more than it has.

    The method of Webster and Sainte-Lague: the next label goes to the class with the largest
    count / (2k + 1), k labels given so far; so more labels never take one away from a class.

    Args:
        counts: (K,) labels that each class has, at least 1.
        n: labels to share, at least K.
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    given = np.concatenate([np.arange(count) for count in counts])
    priority = np.where(given == 0, np.inf, counts[owner] / (2 * given + 1))
    first = np.lexsort((given, owner, -priority))[:n]
    return np.bincount(owner[first], minlength=len(counts))
