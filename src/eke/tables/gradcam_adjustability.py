"""The adjustability question of the Grad-CAM consistency paper (Lee and Cho, section V-B), which it leaves open.

Its hypothesis: where classes differ globally (cat, truck), maps of a late layer should agree; where they differ locally
(leopard, cheetah), those of an early one. Each problem here has two classes: cat and truck of CIFAR-10 are the paper's
first kind; 4 and 9, and 3 and 5 of MNIST differ by one stroke, and cat and dog of CIFAR-10 by features of the head.

What is a choice of ours: the four problems, and that the ablation (L_S + L_P) stands beside the layers. No setting is
chosen, so figures are those of test images. See `eke.tables.gradcam_bench` for the rest of the experiment.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from eke.errors import ConfigError
from eke.progress import Progress
from eke.tables.benches import Scale
from eke.tables.gradcam_bench import GradCAMBench, make_pair, tested
from eke.tasks.grid_table import Claim, Difference, Row, Section, Series, Table

GLOBAL = {"cat or truck": ("cifar10", ("cat", "truck"))}
LOCAL = {
    "4 or 9": ("mnist", ("4", "9")),
    "3 or 5": ("mnist", ("3", "5")),
    "cat or dog": ("cifar10", ("cat", "dog")),
}
RATIO = 2.0


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the table.

    Raises:
        ConfigError: the paper's scale: the paper has no such experiment.
        DataError: images are missing.
    """
    if scale == "paper":
        raise ConfigError("The paper has no such experiment, so this table has no paper scale. Try --scale cpu.")
    problems = (
        {"3 or 5": ("digits", ("3", "5")), "0 or 7": ("digits", ("0", "7"))} if scale == "smoke" else GLOBAL | LOCAL
    )
    benches = {
        words: make_pair(name, classes, scale, seeds, data, out, progress)
        for words, (name, classes) in problems.items()
    }
    series = {words: _series(bench) for words, bench in benches.items()}
    layers = next(iter(benches.values())).layers
    columns = ("L_S + L_P", *layers, "L_S")
    far, near = ({"0 or 7"}, {"3 or 5"}) if scale == "smoke" else (set(GLOBAL), set(LOCAL))
    rows = [
        Row(words, each, note="differ globally" if words in far else "differ locally") for words, each in series.items()
    ]
    text = next(iter(benches.values())).text
    return Table(
        name="gradcam-adjustability",
        title="Grad-CAM consistency, section V-B: which layer for which classes",
        scale=scale,
        seeds=seeds,
        sections=[Section("Two classes each", text, columns, rows)],
        claims=_claims(series, layers, far, near),
    )


def _series(bench: GradCAMBench) -> dict[str, Series]:
    by_layer = {layer: tested(bench.consistent(RATIO, layer)) for layer in bench.layers}
    return {
        "L_S + L_P": tested(bench.consistent(RATIO)),
        **by_layer,
        "L_S": tested(bench.supervised(augmented=False)),
    }


def _claims(
    series: Mapping[str, Mapping[str, Series]], layers: Sequence[str], far: set[str], near: set[str]
) -> list[Claim]:
    first, last = layers[0], layers[-1]

    def above(words: str, higher: str, lower: str) -> Difference:
        return Difference(f"{words}: {higher} − {lower}", [series[words][higher]], [series[words][lower]])

    def interaction(a: str, b: str) -> Difference:
        plus = [series[a][last], series[b][first]]
        minus = [series[a][first], series[b][last]]
        return Difference(f"({last} − {first}) of {a} − the same of {b}", plus, minus)

    def baseline(names: set[str]) -> Series:
        return series[min(names)]["L_S"]

    return [
        Claim(
            "A late layer helps more where classes differ globally",
            "section V-B",
            [above(words, last, first) for words in sorted(far)],
            baseline(far),
        ),
        Claim(
            "An early layer helps more where classes differ locally",
            "section V-B",
            [above(words, first, last) for words in sorted(near)],
            baseline(near),
        ),
        Claim(
            "Which layer helps depends on how classes differ",
            "section V-B",
            [interaction(a, b) for a in sorted(far) for b in sorted(near)],
            baseline(far),
        ),
        *(
            Claim(
                f"L_G helps to tell {words}",
                "section V-B",
                [Difference(f"{layer} − L_S + L_P", [each[layer]], [each["L_S + L_P"]]) for layer in layers],
                each["L_S"],
            )
            for words, each in series.items()
        ),
    ]
