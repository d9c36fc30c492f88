"""Which classes are predicted how often: in the pool beside the evaluated images, too seldom, and too often."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eke.metrics.statistics import Interval
from eke.report.balance import MIN_CLASSES, Imbalance, imbalances, rank_correlation, relative_shares
from eke.report.charts import class_histogram, distribution_bars
from eke.report.content import ClassExamples, Mistake, PoolPredictions
from eke.report.page import Block, Cell, Gallery, Picture, Row, Table, Text
from eke.report.scatter import share_scatter
from eke.report.words import MINUS, count, p_value

_MAX_BARS = 15  # classes in the chart of shares
_N_SHOWN = 10  # rows of a table before the rest is folded


def predicted_blocks(
    pool: PoolPredictions | None,
    confusion: NDArray[np.int64] | None,
    classes: Sequence[str],
    split: str,
    level: float,
) -> list[Block]:
    """Return how often classes are predicted in the pool and in the evaluated images, and whether the two agree.

    Args:
        pool: counts of the pool's predictions and of the labels; None where there is no pool.
        confusion: (K,K) counts of the evaluated images, row = label, column = prediction; None where there are none.
        classes: K names.
        split: what the evaluated images are called.
        level: confidence level of the correlation.
    """
    ratios: dict[str, NDArray[np.float64]] = {}
    words: list[str] = []
    if pool is not None:
        ratios["unlabeled pool"] = relative_shares(pool.predicted, pool.labeled)
        words.append(
            f"In the pool ({count(int(pool.predicted.sum()), 'image')}), expected is what the share of a class among "
            f"the {count(int(pool.labeled.sum()), 'training label')} suggests. If as many labels were chosen of each "
            "class while the pool holds more of some than of others, it is right to differ."
        )
    if confusion is not None:
        ratios[f"{split} images"] = relative_shares(confusion.sum(0), confusion.sum(1))
        words.append(
            f"In the {split} images ({int(confusion.sum()):,}), expected is the number of images that are of the class."
        )
    if not ratios:
        return []
    charts: list[Block] = [class_histogram("How many classes are predicted how often", list(ratios.items()))]
    blocks: list[Block] = []
    if len(ratios) == 2:
        x, y = ratios.values()
        charts.append(
            share_scatter(
                f"One dot per class: the pool against the {split} images",
                "pool: share of predictions / of labels",
                f"{split}: predicted / labeled",
                classes,
                x,
                y,
            )
        )
        blocks.append(Text(_agreement(rank_correlation(x, y, level), split, level), "note"))
    blocks += [Text(" ".join(words)), Row(charts)]
    return blocks + ([] if pool is None else _pool_bars(pool, classes))


def _agreement(correlation: Interval | None, split: str, level: float) -> str:
    question = f"whether classes that are predicted too often in the pool are so in the {split} images too"
    if correlation is None:
        return (
            f"Cannot tell {question}: that takes a rank correlation over at least {MIN_CLASSES} classes whose shares "
            "differ."
        )
    low, high = (f"{end:.2f}".replace("-", MINUS) for end in (correlation.low, correlation.high))
    value = f"{correlation.value:.2f}".replace("-", MINUS)
    figures = f"Spearman’s rank correlation over classes is {value} ({100 * level:g} % interval {low} to {high})"
    if correlation.contains(0):
        return f"Cannot tell {question}: {figures}, which contains 0."
    if correlation.value > 0:
        return (
            f"A class that is predicted too often or too seldom in the pool is so in the {split} images too: {figures}."
        )
    return (
        f"Classes that are predicted too often in the pool are predicted too seldom in the {split} images: {figures}."
    )


def _pool_bars(pool: PoolPredictions, classes: Sequence[str]) -> list[Block]:
    predicted, labeled = (each / max(1, each.sum()) for each in (pool.predicted, pool.labeled))
    off = np.abs(predicted - labeled)
    shown = np.sort(np.argsort(-off, kind="stable")[:_MAX_BARS])
    of = "" if len(shown) == len(off) else f", the {len(shown)} of {len(off):,} classes that differ most"
    return [
        distribution_bars(
            f"Predicted classes of the pool against labels{of}",
            [classes[i] for i in shown],
            [("predicted in the unlabeled pool", predicted[shown]), ("labels", labeled[shown])],
        )
    ]


def imbalance_blocks(
    confusion: NDArray[np.int64],
    classes: Sequence[str],
    split: str,
    level: float,
    under_examples: Sequence[ClassExamples] = (),
    over_examples: Sequence[ClassExamples] = (),
) -> list[Block]:
    """Return the classes that are predicted less or more often than counting noise explains, with pictures of how.

    Args:
        confusion: (K,K) counts, row = label, column = prediction.
        classes: K names.
        split: what the evaluated images are called.
        level: a class is listed where its corrected p is at most 1 - level.
        under_examples: pictures for classes that are predicted too seldom.
        over_examples: pictures for those that are predicted too often.
    """
    under, over = imbalances(confusion, level)
    rule = (
        "A class is listed where more of its images are taken for others than images of others for it, or fewer, "
        "and a fair coin would hardly divide these errors so (exact binomial test, corrected over all classes by "
        f"Holm’s method, p at most {1 - level:.2g})."
    )
    if not under and not over:
        return [
            Text(
                f"No class is predicted more or less often in the {split} images than counting noise explains: with "
                f"{count(int(confusion.sum()), 'image')} in {count(len(classes), 'class', 'classes')}, none can be "
                f"told from chance. {rule}"
            )
        ]
    blocks: list[Block] = [Text(rule)]
    for found, kind in ((under, "less"), (over, "more")):
        if found:
            n = count(len(found), "class is", "classes are")
            blocks.append(_table(f"{n} predicted {kind} often than labeled", found, confusion, classes))
    blocks += [
        _gallery(e, f"{e.name} is predicted too seldom: images of it, and what they were taken for", taken_for=True)
        for e in under_examples
    ]
    blocks += [
        _gallery(e, f"{e.name} is predicted too often: images of others that were taken for it", taken_for=False)
        for e in over_examples
    ]
    return blocks


def _table(caption: str, found: Sequence[Imbalance], confusion: NDArray[np.int64], classes: Sequence[str]) -> Table:
    errors = confusion - np.diag(np.diag(confusion))

    def most(counts: NDArray[np.int64]) -> str:
        k = int(counts.argmax())
        return f"mostly {classes[k]} ({counts[k]:,})" if counts[k] else ""

    rows: list[list[Cell | str]] = [
        [
            classes[each.label],
            f"{each.n_images:,}",
            f"{each.n_predicted:,}",
            f"{each.n_predicted / each.n_images:.2f}×" if each.n_images else "\N{EN DASH}",
            Cell(f"{each.n_missed:,}", most(errors[each.label])),
            Cell(f"{each.n_false:,}", most(errors[:, each.label])),
            p_value(each.p),
        ]
        for each in found
    ]
    heads = ["Class", "Images", "Predicted", "Predicted / images", "Taken for others", "Others taken for it", "p"]
    return Table(caption, heads, rows, n_shown=_N_SHOWN)


def _gallery(examples: ClassExamples, caption: str, *, taken_for: bool) -> Gallery:
    def picture(m: Mistake) -> Picture:
        lines = (f"→ {m.predicted}" if taken_for else m.true, m.path)
        alt = f"Labeled {m.true}, taken for {m.predicted} with {100 * m.confidence:.1f} % confidence: {m.path}"
        return Picture(m.image, lines, alt)

    return Gallery(caption, [picture(mistake) for mistake in examples.mistakes])
