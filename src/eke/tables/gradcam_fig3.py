"""Figure 3 of the Grad-CAM consistency paper (Lee and Cho): accuracy over the ratio of unlabeled to labeled images.

A curve for each layer of L_G, for the ablation (L_S + L_P), and for the baseline, which does not depend on the ratio.
The cells are those of `gradcam-table1` and `gradcam-table2`; see `eke.tables.gradcam_bench` for the experiment.
"""

from pathlib import Path

from eke.progress import Progress
from eke.tables.benches import Scale
from eke.tables.gradcam_bench import RATIOS, make_bench
from eke.tables.gradcam_table1 import PAPER
from eke.tasks.grid_table import Claim, Difference, Row, Section, Series, Table

ABLATION = {0.5: 0.8919, 1.0: 0.8964, 2.0: 0.9056}
"""Table II: validation accuracy of L_S + L_P by ratio."""


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the figure.

    Raises:
        DataError: images are missing.
    """
    bench = make_bench(scale, seeds, data, out, progress)
    columns = {ratio: f"{ratio:g}" for ratio in RATIOS}
    baseline = bench.supervised(augmented=True)
    ablation = {ratio: bench.consistent(ratio) for ratio in RATIOS}
    by_layer = {layer: {ratio: bench.consistent(ratio, layer) for ratio in RATIOS} for layer in bench.layers}

    def row(name: str, figures: dict[float, Series], paper: dict[float, float]) -> Row:
        return Row(name, {columns[r]: figures[r] for r in RATIOS}, {columns[r]: paper[r] for r in RATIOS})

    rows = [
        row(layer, by_layer[layer], {ratio: PAPER[ratio][i] for ratio in RATIOS})
        for i, layer in enumerate(bench.layers)
    ]
    rows.append(row("Ablation: L_S + L_P", ablation, ABLATION))
    rows.append(row("Baseline: L_S", dict.fromkeys(RATIOS, baseline), {ratio: PAPER[ratio][-1] for ratio in RATIOS}))
    return Table(
        name="gradcam-fig3",
        title="Grad-CAM consistency, Figure 3: accuracy over ratios",
        scale=scale,
        seeds=seeds,
        sections=[
            Section(
                f"{bench.data.name}, accuracy over unlabeled images per labeled one",
                bench.text,
                tuple(columns.values()),
                rows,
                x="unlabeled images for each labeled one",
            )
        ],
        claims=[
            Claim(
                f"L_G at {layer} improves on the ablation at every ratio",
                "figure 3",
                [Difference(f"ratio {ratio:g}", [by_layer[layer][ratio]], [ablation[ratio]]) for ratio in RATIOS],
                baseline,
            )
            for layer in bench.layers
        ],
    )
