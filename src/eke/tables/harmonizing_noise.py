"""Noise in the maps, by which the harmonizing paper hopes to help images whose explanations did not overlap.

Section 6: "introducing a stochastic process in the computation of the attention consistency may allow attention maps
to overlap".

Networks trained on 8 images per class are harmonized without noise and with Gaussian noise of half, one and two of the
maps' standard deviations, and their validation images are cut into quarters by their agreement before. A quarter's
gain is compared with that of the same quarter without noise: regression to the mean is the same in both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eke.config import merge, parse
from eke.engine.journal import RunFolder
from eke.engine.processes import choose_device
from eke.errors import DataError
from eke.progress import Progress
from eke.tables.benches import Scale
from eke.tables.harmonizing_bench import F1, MAP, MIDDLE, PAIRED_SEEDS, make_bench
from eke.tables.rows import above
from eke.tasks.agreement_gain import N_QUARTERS, measure_gain
from eke.tasks.grid_cells import Cell, Place, Train
from eke.tasks.grid_data import TableData
from eke.tasks.grid_table import Claim, Row, Section, Series, Table
from eke.tasks.options import FitOptions
from eke.tasks.prepare import prepare

SEEDS = PAIRED_SEEDS
NOISES = (0.0, 0.5, 1.0, 2.0)
"""Standard deviations of the noise, in those of the map."""
QUARTERS = [f"Quarter {i}" for i in range(1, N_QUARTERS + 1)]
"""Of validation images by agreement before, the lowest first."""


@dataclass(frozen=True)
class Gain:
    """Measure what harmonizing the run that the cell starts from brought to each quarter of its validation images."""

    kind: str = "gain"
    uses_labels: bool = False

    def determines(self, data: TableData) -> Mapping[str, Any]:
        return {}

    def words(self, data: TableData) -> str:
        return f"gain in agreement by quarter on {data.name}"

    def run(self, place: Place, progress: Progress) -> dict[str, float]:
        """Explain the images before and after.

        Raises:
            DataError: there are too few validation images for quarters.
        """
        assert place.start is not None
        folder = RunFolder(place.start)
        options = parse(FitOptions, folder.read(folder.config))
        material = prepare(options, choose_device(options.compute.device), progress)
        found = measure_gain(options.model_copy(update={"baseline": options.init}), folder, material)
        if found is None:
            raise DataError(f"{place.data.name} has too few validation images to cut them into quarters.")
        gains = {name: each["gain"]["value"] for name, each in zip(QUARTERS, found["quarters"], strict=True)}
        return {"gain": found["gain"]["value"], **gains}


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the table.

    Raises:
        ConfigError: no folder of images was named.
        DataError: images are missing.
    """
    bench = make_bench(scale, seeds, data, out)
    start = bench.supervised(MIDDLE)
    harmonized = {0.0: bench.harmonized(MIDDLE, start)}
    for noise in NOISES[1:]:
        cells = []
        for cell in harmonized[0.0].cells:
            assert isinstance(cell.work, Train)
            work = replace(cell.work, flags=merge(cell.work.flags, {"method": {"noise": noise}}))
            cells.append(replace(cell, work=work))
        harmonized[noise] = Series(cells, F1)
    gains = {
        noise: Series([Cell(Gain(), cell.data, cell.seed, start=cell) for cell in series.cells], "gain", rate=False)
        for noise, series in harmonized.items()
    }
    columns = ("All", *QUARTERS, "Macro-F1", "mAP")
    rows = []
    for noise, series in harmonized.items():
        quarters = {name: replace(gains[noise], figure=name) for name in QUARTERS}
        figures = {"Macro-F1": series, "mAP": replace(series, figure=MAP), "All": gains[noise], **quarters}
        rows.append(Row(f"noise {noise:g}", figures))
    text = (
        f"{bench.text} Gains in agreement (Pearson's correlation of the two maps that are compared, without noise) of "
        "validation images, all and by quarter of the agreement before, the lowest first."
    )
    return Table(
        name="harmonizing-noise",
        title="Harmonizing attention, section 6: noise in the maps",
        scale=scale,
        seeds=seeds,
        sections=[Section(f"{bench.data.name}, {MIDDLE} per class", text, columns, rows)],
        claims=[
            Claim(
                sentence,
                "section 6",
                [
                    above(
                        f"{quarter}: noise {noise:g} − none",
                        replace(gains[noise], figure=quarter),
                        replace(gains[0.0], figure=quarter),
                    )
                    for noise in NOISES[1:]
                ],
                start,
            )
            for sentence, quarter in (
                ("Noise helps images whose maps did not overlap", QUARTERS[0]),
                ("Noise helps images whose maps did overlap", QUARTERS[-1]),
            )
        ],
    )
