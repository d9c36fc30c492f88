"""Strategies over whole campaigns: ten classes, 20:1, three tenths near-duplicates, a person who knows the truth."""

from statistics import mean

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from eke.acquire.contract import Candidates, Labeled
from eke.acquire.strategies import STRATEGIES

SEEDS = range(5)
WIDTH, N_CLASSES = 16, 10
MARGIN = 0.01
"""Accuracy by which a mean over seeds may be lower than that of random labels."""


class World:
    """Classes are clouds around random centers, the largest twenty times the smallest; test images are balanced."""

    def __init__(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self.centers = generator.normal(size=(N_CLASSES, WIDTH))
        sizes = [round(210 * 20 ** (-k / (N_CLASSES - 1))) for k in range(N_CLASSES)]
        labels = np.repeat(np.arange(N_CLASSES), sizes)
        features = self._around(labels, generator)
        copied = generator.choice(len(labels), round(len(labels) * 3 / 7))  # three tenths of all are copies
        near = features[copied] + generator.normal(size=(len(copied), WIDTH)) * 0.01
        self.features = np.concatenate([features, near]).astype(np.float32)
        self.labels = np.concatenate([labels, labels[copied]])
        self.ids = [f"{each:032x}" for each in generator.choice(2**62, len(self.labels), replace=False)]
        self.test_labels = np.repeat(np.arange(N_CLASSES), 100)
        self.test = self._around(self.test_labels, generator)

    def _around(self, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return self.centers[labels] + generator.normal(size=(len(labels), WIDTH)) * 0.7

    def probe(self, rows: list[int]) -> tuple[np.ndarray, float]:
        """Return (N, K) probabilities and the accuracy on the balanced test images."""
        model = LogisticRegression(max_iter=300).fit(self.features[rows], self.labels[rows])
        probs = np.zeros((len(self.labels), N_CLASSES), np.float32)
        probs[:, model.classes_] = model.predict_proba(self.features)
        return probs, float(model.score(self.test, self.test_labels))


def curve(world: World, strategy: str, first: list[int], batch: int, n_rounds: int, seed: int) -> list[float]:
    """Return test accuracies, from the first labels on; without first labels, from the first batch on."""
    rows, found = list(first), []
    probs = np.full((len(world.labels), N_CLASSES), 1 / N_CLASSES, np.float32)
    for number in range(n_rounds + 1):
        if number or not first:
            labeled = Labeled(
                [world.ids[row] for row in rows],
                torch.from_numpy(world.features[rows]),
                torch.from_numpy(world.labels[rows]),
            )
            candidates = Candidates(world.ids, probs=torch.from_numpy(probs), features=torch.from_numpy(world.features))
            rows += [pick.row for pick in STRATEGIES[strategy].select(candidates, labeled, batch, seed)]
        probs, accuracy = world.probe(rows)
        found.append(accuracy)
    return found


@pytest.fixture(scope="module")
def areas() -> dict[str, list[float]]:
    """Strategy -> mean height of its curve over six batches of 15, by seed."""
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        world = World(seed)
        first = np.random.default_rng(seed).permutation(len(world.labels))[:15].tolist()
        for name, strategy in STRATEGIES.items():
            if strategy.needs <= {"probs", "features"}:
                found.setdefault(name, []).append(mean(curve(world, name, first, 15, 6, seed)))
    return found


def test_no_strategy_is_worse_than_random_labels(areas: dict[str, list[float]]) -> None:
    chance = mean(areas["random"])
    assert {name: mean(each) - chance for name, each in areas.items() if mean(each) < chance - MARGIN} == {}
    undecided = ("entropy", "margin", "least_confidence", "balanced_margin", "badge", "cluster_margin", "k_center")
    assert all(mean(areas[name]) > chance + MARGIN for name in undecided), "rare classes are found"


def test_near_duplicates_cost_a_batch_of_single_images_more_than_a_varied_one(areas: dict[str, list[float]]) -> None:
    assert mean(areas["entropy"]) < mean(areas["badge"])
    assert mean(areas["entropy"]) < mean(areas["cluster_margin"])


def test_typical_images_are_the_better_first_labels() -> None:
    """10 to 50 labels, from none."""
    heights: dict[str, list[float]] = {"typiclust": [], "random": []}
    for seed in SEEDS:
        world = World(seed)
        for name, found in heights.items():
            found.append(mean(curve(world, name, [], 10, 4, seed)))
    assert all(typical > chance for typical, chance in zip(*heights.values(), strict=True))
    assert mean(heights["typiclust"]) > mean(heights["random"]) + 0.1
