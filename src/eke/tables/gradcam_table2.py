"""Table II of the Grad-CAM consistency paper (Lee and Cho): what each loss does, by itself and with the others.

Rows at ratio 1: L_S with plain and with augmented labeled images; L_S + L_P, the paper's ablation, in three forms;
L_S + L_G without L_P, the ablation that its introduction names; all three at each layer; and all three with the
explanations that the paper compares itself with, saliency (its reference [4]) and CAM ([5]). Then the table as it is
published: the best layer and the ablation at each ratio. See `eke.tables.gradcam_bench` for the experiment.
"""

from pathlib import Path

from eke.progress import Progress
from eke.tables.benches import Scale
from eke.tables.gradcam_bench import RATIOS, GradCAMBench, make_bench
from eke.tables.gradcam_fig3 import ABLATION
from eke.tables.gradcam_table1 import PAPER, best_setting
from eke.tasks.grid_table import Claim, Difference, Row, Section, Series, Table

MIDDLE = 1.0
"""The ratio at which losses are compared."""


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the table.

    Raises:
        DataError: images are missing.
    """
    bench = make_bench(scale, seeds, data, out, progress)
    series = _series(bench)
    published = {
        "L_S, augmented": PAPER[MIDDLE][-1],
        "L_S + L_P": ABLATION[MIDDLE],
        **{f"L_S + L_P + L_G, {layer}": PAPER[MIDDLE][i] for i, layer in enumerate(bench.layers)},
    }
    losses = [
        Row(name, {"Acc.": each}, {"Acc.": published[name]} if name in published else {}, _note(name))
        for name, each in series.items()
    ]
    by_ratio = [
        Row(
            f"Ratio {ratio:g}",
            {**{layer: bench.consistent(ratio, layer) for layer in bench.layers}, "Ablation": bench.consistent(ratio)},
            {"Ablation": ABLATION[ratio], bench.layers[2]: PAPER[ratio][2]},
            "the paper's best is the third layer",
        )
        for ratio in RATIOS
    ]
    return Table(
        name="gradcam-table2",
        title="Grad-CAM consistency, Table II: what each loss does",
        scale=scale,
        seeds=seeds,
        sections=[
            Section(f"{bench.data.name}, ratio {MIDDLE:g}", bench.text, ("Acc.",), losses),
            Section(
                f"{bench.data.name}, all three losses and the ablation by ratio",
                bench.text,
                (*bench.layers, "Ablation"),
                by_ratio,
            ),
        ],
        claims=_claims(bench, series),
        chosen=best_setting(bench),
    )


def _series(bench: GradCAMBench) -> dict[str, Series]:
    deepest = bench.layers[-1]
    return {
        "L_S": bench.supervised(augmented=False),
        "L_S, augmented": bench.supervised(augmented=True),
        "L_S, equal images": bench.supervised(augmented=False, times=3),
        "L_S, augmented, equal images": bench.supervised(augmented=True, times=3),
        "L_S + L_P": bench.consistent(MIDDLE),
        "L_S + L_P, hard": bench.consistent(MIDDLE, pseudo="hard"),
        "L_S + L_P, L2": bench.consistent(MIDDLE, pseudo="l2"),
        **{f"L_S + L_G, {layer}": bench.consistent(MIDDLE, layer, pseudo=None) for layer in bench.layers},
        **{f"L_S + L_P + L_G, {layer}": bench.consistent(MIDDLE, layer) for layer in bench.layers},
        "L_S + L_P + saliency": bench.consistent(MIDDLE, map_="saliency"),
        f"L_S + L_P + CAM, {deepest}": bench.consistent(MIDDLE, deepest, map_="cam"),
    }


def _note(name: str) -> str:
    notes = {
        "L_S": "labeled images mirrored or not",
        "L_S, augmented": "the paper's baseline",
        "L_S, equal images": "three times the labeled images a step",
        "L_S, augmented, equal images": "three times the labeled images a step",
        "L_S + L_P": "the paper's ablation: soft cross entropy",
        "L_S + L_P, hard": "cross entropy with the likeliest class",
        "L_S + L_P, L2": "squared error",
    }
    return notes.get(name, "")


def _claims(bench: GradCAMBench, series: dict[str, Series]) -> list[Claim]:
    first, *_, last = bench.layers

    def over(lower: str, *higher: str) -> list[Difference]:
        return [Difference(f"{each} − {lower}", [series[each]], [series[lower]]) for each in higher]

    def claim(sentence: str, source: str, *differences: Difference) -> Claim:
        return Claim(sentence, source, differences, series["L_S"])

    all_three = [f"L_S + L_P + L_G, {layer}" for layer in bench.layers]
    without = [f"L_S + L_G, {layer}" for layer in bench.layers]
    return [
        claim("All three losses improve on the baseline", "Table I", *over("L_S, augmented", *all_three)),
        claim(
            "The pseudo-label loss is worse than supervision alone",
            "section IV-C",
            *over("L_S + L_P", "L_S, augmented"),
        ),
        claim("The Grad-CAM loss improves on the ablation", "Table II", *over("L_S + L_P", *all_three)),
        claim("The Grad-CAM loss is useful without pseudo-labels", "introduction", *over("L_S", *without)),
        claim("Later layers improve more", "section IV-B", *over(all_three[0], all_three[-1])),
        claim(
            "Grad-CAM is a better explanation to agree on than saliency and CAM",
            "introduction",
            *over("L_S + L_P + saliency", f"L_S + L_P + L_G, {first}"),
            *over(f"L_S + L_P + CAM, {last}", f"L_S + L_P + L_G, {last}"),
        ),
    ]
