"""The strategies by name. `eke.acquire.eba` makes one more, of the mistakes that it is given."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from eke.acquire.batch_bald import batch_bald
from eke.acquire.clusters import cluster_margin, medoids
from eke.acquire.cold_start import ball_radius, prob_cover, typiclust
from eke.acquire.contract import Pick, Pool, Strategy
from eke.acquire.diversity import badge, k_center
from eke.acquire.passes import Passes
from eke.acquire.sampling import class_balanced, power_scores, softmax_scores, top_k
from eke.acquire.scores import entropy, least_confidence, margin, of_several, random_scores
from eke.errors import ConfigError

SHORTLIST = 2000
"""BatchBALD chooses among so many images of the largest BALD."""

Score = Callable[[Tensor], Tensor]


def _picks(rows: Tensor, scores: Tensor, reason: str) -> list[Pick]:
    """Return picks whose reasons are a format of their score."""
    return [Pick(row, score, reason.format(score)) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)]


def _of_probs(score: Score, pool: Pool) -> Tensor:
    probs = pool.tensor("probs")
    return of_several(score, probs) if pool.candidates.several else score(probs)


def _highest(sentence: str, score: Score, reason: str) -> Strategy:
    def choose(pool: Pool, k: int) -> list[Pick]:
        scores = _of_probs(score, pool)
        rows = top_k(scores, k, pool.order)
        return _picks(rows, scores.cpu()[rows], reason)

    return Strategy(sentence, choose, frozenset({"probs"}), several=True)


def _drawn(sentence: str, score: Score, reason: str, keys_of: Callable[..., Tensor]) -> Strategy:
    def choose(pool: Pool, k: int) -> list[Pick]:
        scores = _of_probs(score, pool).cpu()
        rows = top_k(keys_of(scores, pool.candidates.ids, pool.seed), k, pool.order)
        return _picks(rows, scores[rows], f"drawn: {reason}")

    return Strategy(sentence, choose, frozenset({"probs"}), several=True)


def _of_passes(sentence: str, score: Callable[[Passes], Tensor], reason: str, draw: bool = False) -> Strategy:
    def choose(pool: Pool, k: int) -> list[Pick]:
        scores = score(pool.passes).cpu()
        keys = power_scores(scores, pool.candidates.ids, pool.seed) if draw else scores
        rows = top_k(keys, k, pool.order, then=pool.passes.predictive_entropy().cpu())
        return _picks(rows, scores[rows], reason)

    return Strategy(sentence, choose, frozenset({"passes"}))


def _random(pool: Pool, k: int) -> list[Pick]:
    scores = random_scores(pool.candidates.ids, pool.seed)
    rows = top_k(scores, k, pool.order)
    return _picks(rows, scores[rows], "drawn at random")


def _balanced(pool: Pool, k: int) -> list[Pick]:
    probs = pool.tensor("probs")
    scores, classes = margin(probs).cpu(), probs.argmax(1).cpu()
    rows = class_balanced(scores, classes, pool.labeled.counts(probs.shape[1]), k, pool.order)
    return [
        Pick(row, float(scores[row]), f"predicted as class {int(classes[row])}; margin score {float(scores[row]):.3f}")
        for row in rows.tolist()
    ]


def _k_center(pool: Pool, k: int) -> list[Pick]:
    features = pool.tensor("features")
    rows, distances = k_center(features, pool.labeled.features_like(features), k, pool.order)
    return _picks(rows, distances, "at a distance of {:.3g} from all labeled and picked images")


def _medoids(pool: Pool, k: int) -> list[Pick]:
    rows, sizes = medoids(pool.tensor("features"), k, pool.order, pool.seed)
    return _picks(rows, sizes, "the middle of a cluster of {} images")


def _badge(pool: Pool, k: int) -> list[Pick]:
    rows, lengths = badge(pool.tensor("probs"), pool.tensor("features"), k, pool.order, pool.seed)
    return _picks(rows, lengths, "drawn: its gradient is {:.3g} long and unlike those of the picks before")


def _cluster_margin(pool: Pool, k: int) -> list[Pick]:
    scores = margin(pool.tensor("probs")).cpu()
    rows = cluster_margin(scores, pool.tensor("features"), k, pool.order, pool.seed)
    return _picks(rows, scores[rows], "undecided in a cluster of its own: margin score {:.3f}")


def _typiclust(pool: Pool, k: int) -> list[Pick]:
    features = pool.tensor("features")
    rows, scores, sizes = typiclust(features, pool.labeled.features_like(features), k, pool.order, pool.seed)
    return [
        Pick(row, score, f"typical of a cluster of {size} images")
        for row, score, size in zip(rows.tolist(), scores.tolist(), sizes.tolist(), strict=True)
    ]


def _prob_cover(pool: Pool, k: int) -> list[Pick]:
    features, probs, labels = pool.tensor("features"), pool.candidates.probs, pool.labeled.labels
    n_classes = probs.shape[1] if probs is not None else 0 if labels is None else len(labels.unique())
    if n_classes < 2:
        raise ConfigError("prob_cover needs the number of classes: give probabilities, or labels of two classes.")
    radius = ball_radius(features, n_classes, pool.order, pool.seed)
    rows, gains = prob_cover(features, pool.labeled.features_like(features), k, radius, pool.order)
    return _picks(rows, gains, "covers {} images that no other does")


def _batch_bald(pool: Pool, k: int) -> list[Pick]:
    draws = pool.tensor("draws")
    bald = entropy(draws.mean(1, dtype=torch.float32)) - torch.stack([entropy(p) for p in draws.unbind(1)]).mean(0)
    short = top_k(bald, max(k, SHORTLIST), pool.order)
    place = torch.empty_like(pool.order)
    place[pool.order] = torch.arange(len(place))
    rows, gains = batch_bald(draws[short.to(draws.device)], k, place[short].argsort(), pool.seed)
    return _picks(short[rows], gains, "tells {:.3f} nats about the network beyond the picks before")


PROBS, FEATURES = frozenset({"probs"}), frozenset({"features"})

STRATEGIES: Mapping[str, Strategy] = {
    "entropy": _highest(
        "the images that the network is least decided about (the entropy of its prediction, in nats)",
        entropy,
        "entropy {:.3f}",
    ),
    "margin": _highest(
        "the images whose two most probable classes are nearly as probable (1 minus the difference)",
        margin,
        "margin score {:.3f}",
    ),
    "least_confidence": _highest(
        "the images whose predicted class is least probable (1 minus its probability)",
        least_confidence,
        "least confidence {:.3f}",
    ),
    "power_margin": _drawn(
        "images drawn with probabilities proportional to their margin score, so that not all are alike",
        margin,
        "margin score {:.3f}",
        power_scores,
    ),
    "power_entropy": _drawn(
        "images drawn with probabilities proportional to their entropy, so that not all are alike",
        entropy,
        "entropy {:.3f}",
        power_scores,
    ),
    "softmax_entropy": _drawn(
        "images drawn with probabilities proportional to exp(entropy), nearer to random than power_entropy",
        entropy,
        "entropy {:.3f}",
        softmax_scores,
    ),
    "balanced_margin": Strategy(
        "in turn of the class with the fewest labels, by prediction, the image with the highest margin score",
        _balanced,
        PROBS,
    ),
    "random": Strategy(
        "images drawn at random, which every other strategy must beat (a number drawn from seed and image)",
        _random,
        several=True,
    ),
    "bald": _of_passes(
        "the images that stochastic passes disagree on most (BALD, in nats)",
        Passes.bald,
        "passes disagree by {:.3f} nats",
    ),
    "power_bald": _of_passes(
        "images drawn with probabilities proportional to BALD, so that not all are alike",
        Passes.bald,
        "drawn: passes disagree by {:.3f} nats",
        draw=True,
    ),
    "entropy_mc": _of_passes(
        "the images whose mean prediction over stochastic passes is least decided (its entropy, in nats)",
        Passes.predictive_entropy,
        "entropy of the mean {:.3f}",
    ),
    "varratio_mc": _of_passes(
        "the images with the smallest majority among stochastic passes (variation ratio; ties by entropy)",
        Passes.varratio_mc,
        "{:.1%} of passes vote against the majority",
    ),
    "mean_std": _of_passes(
        "the images whose probabilities vary most over stochastic passes (mean standard deviation)",
        Passes.mean_std,
        "standard deviation {:.3f}",
    ),
    "batch_bald": Strategy(
        "the images that tell most about the network together, of those with the largest BALD (a few dozen at most)",
        _batch_bald,
        frozenset({"draws"}),
    ),
    "k_center": Strategy(
        "one after the other the image that is farthest from all labeled and picked ones (core-set)",
        _k_center,
        FEATURES,
    ),
    "k_means": Strategy("the middle of each of as many clusters as images are asked for", _medoids, FEATURES),
    "badge": Strategy(
        "images drawn so that their loss gradients are long and differ from one another (BADGE)",
        _badge,
        PROBS | FEATURES,
    ),
    "cluster_margin": Strategy(
        "of the images with the highest margin scores, some of each cluster", _cluster_margin, PROBS | FEATURES
    ),
    "typiclust": Strategy(
        "typical images of the clusters with the fewest labels: for the first labels (TypiClust)", _typiclust, FEATURES
    ),
    "prob_cover": Strategy(
        "the images with the most images near them that none covers yet: for the first labels (ProbCover)",
        _prob_cover,
        FEATURES,
    ),
}
"""Names on the command line -> strategies."""
