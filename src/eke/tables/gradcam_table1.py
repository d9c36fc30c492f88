"""Table I of the Grad-CAM consistency paper (Lee and Cho): accuracy by layer and by unlabeled images.

Columns: L_S + L_P + L_G at each of four layers, and the paper's baseline, L_S with augmented labeled images, which has
no ratio. The setting of the highest validation accuracy is stated once on test images, beside its ablation and the
baseline; see `eke.tables.gradcam_bench` for the experiment.

The published table is not consistent with itself: the deviation of the whole row 2.0 is that of one cell of the row
0.5, and the improvement of 1.44 points in its abstract is nowhere between its cells (the largest is 1.38).
"""

from pathlib import Path

from eke.progress import Progress
from eke.tables.benches import Scale
from eke.tables.gradcam_bench import RATIOS, GradCAMBench, make_bench, tested
from eke.tasks.grid_table import Chosen, Claim, Difference, Row, Section, Series, Table

PAPER = {
    0.5: (0.8887, 0.8946, 0.8989, 0.8963, 0.8961),
    1.0: (0.8933, 0.8959, 0.9041, 0.9010, 0.8961),
    2.0: (0.9048, 0.8998, 0.9099, 0.9043, 0.8961),
}
"""Validation accuracy by ratio: layers 1 to 4, baseline."""


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the table.

    Raises:
        DataError: images are missing.
    """
    bench = make_bench(scale, seeds, data, out, progress)
    baseline = bench.supervised(augmented=True)
    at = {ratio: {layer: bench.consistent(ratio, layer) for layer in bench.layers} for ratio in RATIOS}
    columns = (*bench.layers, "Baseline")
    rows = [
        Row(
            f"Ratio {ratio:g}",
            {**at[ratio], "Baseline": baseline},
            dict(zip(columns, PAPER[ratio], strict=True)),
            f"{round(ratio * bench.n_labels):,} unlabeled images",
        )
        for ratio in RATIOS
    ]
    return Table(
        name="gradcam-table1",
        title="Grad-CAM consistency, Table I: layers and ratios",
        scale=scale,
        seeds=seeds,
        sections=[Section(f"{bench.data.name}, all three losses", bench.text, columns, rows)],
        claims=_claims(at, baseline),
        chosen=best_setting(bench),
    )


def _claims(at: dict[float, dict[str, Series]], baseline: Series) -> list[Claim]:
    first, second, third, fourth = next(iter(at.values()))
    low, high = min(at), max(at)

    def over_ratios(layer: str) -> list[Series]:
        return [by_layer[layer] for by_layer in at.values()]

    def above(higher: str, lower: str) -> Difference:
        words = f"{higher} − {lower}, mean over ratios"
        return Difference(words, over_ratios(higher), over_ratios(lower), len(at))

    every = [series for by_layer in at.values() for series in by_layer.values()]
    method = Difference("mean over layers and ratios − baseline", every, [baseline] * len(every), len(every))
    ends = [*at[high].values()], [*at[low].values()]
    more = Difference(f"ratio {high:g} − ratio {low:g}, mean over layers", *ends, len(at[low]))
    return [
        Claim("The method improves on the baseline", "abstract", [method], baseline),
        Claim("More unlabeled images improve more", "section IV-B", [more], baseline),
        Claim(
            "The third layer is the best",
            "section IV-B",
            [above(third, other) for other in (first, second, fourth)],
            baseline,
        ),
        Claim(
            "Later layers improve more",
            "section IV-B",
            [above(second, first), above(third, second), above(fourth, third)],
            baseline,
        ),
    ]


def best_setting(bench: GradCAMBench) -> Chosen:
    """Choose ratio and layer of all three losses on validation, and say what it brings on test."""
    settings = {f"{layer}, ratio {ratio:g}": (ratio, layer) for ratio in RATIOS for layer in bench.layers}
    baselines = {
        "L_S, augmented": bench.supervised(augmented=True),
        "L_S, plain": bench.supervised(augmented=False),
        "L_S, plain, equal images": bench.supervised(augmented=False, times=3),
    }

    def state(name: str) -> tuple[Section, Claim]:
        ratio, layer = settings[name]
        best, ablation = bench.consistent(ratio, layer), bench.consistent(ratio)
        beside = {f"L_S + L_P, ratio {ratio:g}": ablation, **baselines}
        rows = [
            Row(words, {"Test": tested(series), "Validation": series})
            for words, series in [(name, best), *beside.items()]
        ]
        text = (
            f"Of {len(settings)} settings of all three losses, {name} has the highest mean validation accuracy. Test "
            "images are read for it and for what it is compared with, and for nothing else in this table. Its own "
            "validation figure is the largest of many and therefore too high."
        )
        differences = [
            Difference(f"{name} − {words}", [tested(best)], [tested(series)]) for words, series in beside.items()
        ]
        claim = Claim(
            "The setting chosen on validation improves on the ablation and on supervision, on test images",
            "abstract",
            differences,
            baselines["L_S, plain"],
        )
        return Section("Chosen on validation, stated on test", text, ("Test", "Validation"), rows), claim

    return Chosen({name: bench.consistent(*setting) for name, setting in settings.items()}, state)
