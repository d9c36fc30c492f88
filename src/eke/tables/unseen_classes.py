"""What becomes of unlabeled images whose class has no label: section 3.1 of the CoMatch report.

"The smoothness constraint gives these samples low-confidence pseudo-labels. Therefore, they are less connected to
in-distribution samples." A third of the pool is of classes without labels; CoMatch and FixMatch are trained with that
third and without it, and of the final networks these are measured on all pool images that were not labeled:

- confidence: mean of max p, p the network's prediction of the image itself (no view, no alignment, no memory);
- edges: CoMatch's pseudo-label graph, p_b . p_j >= T, over random batches of as many pool images as a step takes:
  edges of an image besides the one to itself, and the part of the batch's images of seen classes that it is connected
  with.

Test images are of the seen classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eke.data.splits import load_split
from eke.engine.journal import RunFolder
from eke.errors import ConfigError
from eke.losses.graph import degrees, pseudo_label_graph
from eke.progress import Progress
from eke.randomness import rng
from eke.tables.benches import GRAPH_TAU, Scale, SmallBench, digits_bench, mnist_bench
from eke.tables.rows import Rows, above
from eke.tasks.evaluate import predict_source
from eke.tasks.grid_cells import Place
from eke.tasks.grid_data import TableData, read_known
from eke.tasks.grid_table import Claim, Difference, Row, Section, Series, Table

N_UNSEEN = 4
"""Of ten classes: the last four by name."""
SOURCE = "section 3.1"


class Connections(NamedTuple):
    """What one image's prediction says of it, for n images in whole batches."""

    degree: Tensor
    """(n,) edges besides the one to itself."""
    seen_rate: Tensor
    """(n,) part of the other seen images of the batch that it is connected with."""


def connections(probs: Tensor, seen: Tensor, threshold: float) -> Connections:
    """Count edges of the pseudo-label graph of one batch.

    Args:
        probs: (U, K) predictions.
        seen: (U,) bool, whether the image's class has labels; at least two are.
        threshold: T in [0, 1].
    """
    own = torch.arange(len(probs), device=probs.device)
    graph = pseudo_label_graph(probs, probs, own, threshold)
    others = seen.expand(len(probs), -1) & ~torch.eye(len(probs), dtype=torch.bool, device=probs.device)
    return Connections(degrees(graph), ((graph > 0) & others).sum(1) / others.sum(1))


@dataclass(frozen=True)
class LookAtPool:
    """Measure confidence and edges of the pool's images, those of seen classes and the others apart."""

    batch: int
    """U: images per graph."""
    threshold: float = GRAPH_TAU
    kind: str = "look"
    uses_labels: bool = False

    def determines(self, data: TableData) -> Mapping[str, Any]:
        return {"batch": self.batch, "threshold": self.threshold}

    def words(self, data: TableData) -> str:
        return f"look at the pool of {data.name}"

    def run(self, place: Place, progress: Progress) -> dict[str, float]:
        assert place.start is not None
        assert place.data.truth is not None
        predictions, images, card, _ = predict_source(place.start, place.data.source, progress)
        labeled = set(load_split(RunFolder(place.start).split).labeled)
        rows = torch.tensor([row for row, name in enumerate(images.ids) if name not in labeled])
        truth = {known.path: known.label for known in read_known(place.data.truth)}
        seen = torch.tensor([truth[path] in card.classes for path in images.paths])
        probs = torch.from_numpy(predictions.probs)
        order = rows[torch.randperm(len(rows), generator=rng(place.seed, 0, "pool batches"))]
        batches = order[: len(order) // self.batch * self.batch].split(self.batch)
        found = [connections(probs[batch], seen[batch], self.threshold) for batch in batches]
        looked = torch.cat(batches)
        measured = {
            "confidence": probs[looked].amax(1),
            "degree": torch.cat([each.degree for each in found]).float(),
            "seen_rate": torch.cat([each.seen_rate for each in found]),
        }
        parts = {"seen": seen[looked], "unseen": ~seen[looked]}
        return {
            f"{name}_{part}": float(values[chosen].mean())
            for name, values in measured.items()
            for part, chosen in parts.items()
            if bool(chosen.any())
        }


COLUMNS = (
    *("Acc. of seen classes", "Confidence, seen", "Confidence, unseen", "Edges, seen", "Edges, unseen"),
    *("Connected with, seen", "Connected with, unseen"),
)


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the table.

    Raises:
        ConfigError: the paper's scale, which the report does not have.
        DataError: images are missing.
    """
    if scale == "paper":
        raise ConfigError("The report has no such experiment at its own scale. Try --scale cpu.")
    whole, reduced = _benches(scale, seeds, data, out, progress)
    with_unseen, without = Rows(whole, seeds), Rows(reduced, seeds)
    look = LookAtPool(whole.labeled * whole.mu)
    runs = {method: with_unseen.semi_supervised(method) for method in ("fixmatch", "comatch")}
    apart = {method: without.semi_supervised(method) for method in runs}
    looks = {method: with_unseen.series(look, start=run) for method, run in runs.items()}
    baseline = with_unseen.supervised()
    names = {"fixmatch": "FixMatch", "comatch": "CoMatch"}
    listed = [Row("Supervised", {COLUMNS[0]: baseline})]
    for method, run in runs.items():
        listed.append(Row(names[method], {COLUMNS[0]: run, **_columns(looks[method])}))
        listed.append(Row(f"{names[method]} without the unseen third", {COLUMNS[0]: apart[method]}))
    figure = {name: replace(looks["comatch"], figure=name) for name in ("seen_rate_seen", "seen_rate_unseen")}
    confidence = {method: replace(series, figure="confidence_unseen") for method, series in looks.items()}
    loss = [runs["comatch"], apart["fixmatch"]], [apart["comatch"], runs["fixmatch"]]
    text = (
        f"A third of the pool is of {N_UNSEEN} classes without labels. Confidence: mean of max p of the final network "
        f"on pool images. Edges: kept edges (p . p' of {GRAPH_TAU} or more) per image in batches of {look.batch}; "
        "connected with: the part of the batch's images of seen classes that an image is connected with."
    )
    return Table(
        name="unseen-classes",
        title="Unlabeled images of classes without labels (CoMatch report, section 3.1)",
        scale=scale,
        seeds=seeds,
        sections=[Section("A pool with unseen classes", whole.text + text, COLUMNS, listed)],
        claims=[
            Claim(
                "CoMatch gives images of unseen classes low-confidence pseudo-labels: lower than FixMatch does",
                SOURCE,
                [above("FixMatch's confidence − CoMatch's", confidence["fixmatch"], confidence["comatch"])],
                baseline,
            ),
            Claim(
                "They are less connected to in-distribution samples",
                SOURCE,
                [above("seen − unseen", figure["seen_rate_seen"], figure["seen_rate_unseen"])],
                baseline,
            ),
            Claim(
                "With such images in the pool CoMatch is better than FixMatch",
                SOURCE,
                [above("CoMatch − FixMatch", runs["comatch"], runs["fixmatch"])],
                baseline,
            ),
            Claim(
                "They cost CoMatch less than FixMatch",
                SOURCE,
                [Difference("CoMatch, with − without, less the same of FixMatch", *loss)],
                baseline,
            ),
        ],
    )


def _benches(
    scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress
) -> tuple[SmallBench, SmallBench]:
    folder = out / "data"

    def bench(keep_unseen: bool) -> SmallBench:
        if scale == "smoke":
            return digits_bench(folder, seeds, progress, N_UNSEEN, keep_unseen)
        return mnist_bench(folder, data, seeds, progress, N_UNSEEN, keep_unseen)

    return bench(True), bench(False)


def _columns(look: Series) -> dict[str, Series]:
    figures = ["confidence_seen", "confidence_unseen", "degree_seen", "degree_unseen", "seen_rate_seen"]
    return {
        column: replace(look, figure=figure, rate=not figure.startswith("degree"))
        for column, figure in zip(COLUMNS[1:], [*figures, "seen_rate_unseen"], strict=True)
    }
