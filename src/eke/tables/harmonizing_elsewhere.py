"""On which unlabeled images to harmonize: those that were trained on, others of their kind, or those of another place.

The paper harmonizes on its training images (section 4.2) and says in section 6 that networks could be fine-tuned "on
deployment dataset without requiring any labels". Here the other place has darker, blurred copies of the test images:
of one half, images are seen without their labels, on the other half all networks are measured. Every network starts as
the same supervised one of its seed, which is measured as it is, too. See `eke.tables.harmonizing_bench`.

Which weights count is still chosen by validation images, labeled and of the first place, as in the paper.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eke.config import fingerprint
from eke.progress import Progress
from eke.tables.benches import Scale
from eke.tables.harmonizing_bench import F1, MAP, MIDDLE, HarmonizingBench, make_bench
from eke.tables.rows import above
from eke.tables.shifted import shifted
from eke.tasks.evaluate import evaluate
from eke.tasks.grid_cells import Cell, Place, overlaps_of
from eke.tasks.grid_data import TableData, hash_file
from eke.tasks.grid_table import Claim, Difference, Row, Section, Series, Table
from eke.tasks.measure import metrics_of

OTHERS = 160
"""Unlabeled images of the same kind, at most: about as many as there are of the other place."""
HERE, THERE = {"mAP": MAP, "Macro-F1": F1}, {"mAP, elsewhere": MAP, "Macro-F1, elsewhere": F1}


@dataclass(frozen=True)
class Evaluate:
    """`eke eval`: figures of a run on the labeled images that are the data's `test`."""

    kind: str = "evaluate"
    uses_labels: bool = False

    def determines(self, data: TableData) -> Mapping[str, Any]:
        return {}

    def words(self, data: TableData) -> str:
        return f"evaluate on {data.name}"

    def run(self, place: Place, progress: Progress) -> dict[str, float]:
        assert place.start is not None
        assert place.data.test is not None
        found = evaluate(place.start, place.data.test, progress)
        return {name: found[name]["value"] for name in metrics_of(found)} | overlaps_of(found.get("boxes") or {})


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """Make the images of the other place, and list the cells of the table.

    Raises:
        ConfigError: no folder of images was named.
        DataError: images are missing.
    """
    bench = make_bench(scale, seeds, data, out)
    name = f"shifted-{bench.data.identity[:8]}"
    seen, measured = (out / "data" / f"{name}-{part}.zip" for part in ("seen", "measured"))
    shifted(bench.data.source, seen, measured, progress)
    series = _series(bench, seen)
    place = replace(
        bench.data, name=name, test=str(measured.absolute()), identity=fingerprint({"test": hash_file(measured)})
    )
    there = {
        words: Series([Cell(Evaluate(), place, cell.seed, start=cell) for cell in each.cells])
        for words, each in series.items()
    }
    rows = [
        Row(
            words,
            {column: replace(each, figure=figure) for column, figure in HERE.items()}
            | {column: replace(there[words], figure=figure) for column, figure in THERE.items()},
        )
        for words, each in series.items()
    ]
    return Table(
        name="harmonizing-elsewhere",
        title="Harmonizing attention, section 6: on which images",
        scale=scale,
        seeds=seeds,
        sections=[
            Section(
                f"{bench.data.name}, {MIDDLE} per class",
                f"{bench.text} Elsewhere: darkened and blurred copies of the test images; one half is harmonized on "
                "without labels, the other half is measured.",
                (*HERE, *THERE),
                rows,
            )
        ],
        claims=_claims(series, there),
    )


def _series(bench: HarmonizingBench, seen: Path) -> dict[str, Series]:
    start = bench.supervised(MIDDLE)
    identity = fingerprint({"images": bench.data.identity, "unlabeled": hash_file(seen)})
    elsewhere = replace(bench.data, identity=identity, unlabeled=str(seen.absolute()))
    alone = {"unlabeled_with_labeled": False, "n_unlabeled": OTHERS}
    return {
        "not harmonized": start,
        "on the training images": bench.harmonized(MIDDLE, start),
        "on others of their kind": bench.harmonized(MIDDLE, start, pool=alone),
        "on images from elsewhere": bench.harmonized(MIDDLE, start, pool=alone, data=elsewhere),
    }


def _claims(here: Mapping[str, Series], there: Mapping[str, Series]) -> list[Claim]:
    start, training, others, elsewhere = here

    def over(series: Mapping[str, Series], better: str, worse: str, where: str) -> Difference:
        sides = (replace(series[name], figure=MAP) for name in (better, worse))
        return above(f"mAP {where}: {better} − {worse}", *sides)

    def claim(sentence: str, source: str, *differences: Difference) -> Claim:
        return Claim(sentence, source, differences, here[start])

    return [
        claim("Harmonizing on the training images improves classification", "section 4.3",
              over(here, training, start, "here")),
        claim("Other images of their kind improve it more", "not in the paper",
              over(here, others, training, "here")),
        claim("Networks can be fine-tuned where they are deployed, without labels", "section 6",
              over(there, elsewhere, start, "elsewhere"), over(there, elsewhere, training, "elsewhere")),
    ]  # fmt: skip
