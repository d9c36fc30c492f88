"""The part of a run's report that shows where its network looks, beside the baseline's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from eke.engine.journal import RunFolder
from eke.engine.model_files import load_classifier
from eke.metrics.statistics import Interval, Paired
from eke.report.attention_sheet import named
from eke.report.content import AgreementGain, KeptRow, LookReport, Quarter
from eke.report.page import Sheet
from eke.tasks.agreement_gain import Agreements
from eke.tasks.before_after import Contender, augmented_views, compare, consistency_report
from eke.tasks.explanation import Subject
from eke.tasks.held_out_attention import AREA_RATE
from eke.tasks.prepare import Material
from eke.tasks.side_by_side import PREDICTED, attention_kind

N_SHOWN = 3
"""Images whose maps are shown."""


def look_report(results: dict[str, Any], runs: Sequence[tuple[str, Path]], material: Material) -> LookReport:
    """Lay out what was measured of a run's attention, and its maps of a few images.

    Args:
        results: the run's, with what `measure_attention` found.
        runs: what each is called, and its folder; "before" comes first.
        material: their images.
    """
    measured = results["attention"]
    part, device = material.part(measured["part"]), material.pools.device
    rows = part.rows[:N_SHOWN]
    pixels = part.pixels.read(rows).cpu()
    subjects = [Subject(part.images.ids[row], part.images.paths[row], part.images.label_words(row)) for row in rows]
    view = augmented_views(pixels, [subject.id for subject in subjects])
    contenders = [Contender(run, *load_classifier(run / "model", device)) for _, run in runs]
    sheets = []
    for layer in measured["layers"] or [None]:
        layers = (layer,) if layer else ()
        compared = [compare(each, pixels, view, subjects, measured["map"], layers, PREDICTED) for each in contenders]
        sheets += [
            consistency_report(pixels, view, subject, [name for name, _ in runs], compared, i)
            for i, subject in enumerate(subjects)
        ]
    return LookReport(
        split=measured["part"],
        n_images=measured["n"],
        area_rate=AREA_RATE,
        **{name: measured[f"attention_{name}"] for name in ("agreement", "entropy", "flat_rate", "spread")},
        kept=[_kept_row(name, each) for name, each in measured["kept"].items()],
        sheets=sheets,
        explanations=_explanations(pixels, subjects, contenders, [name for name, _ in runs], measured["layers"])
        if results["method"] == "harmonize"
        else (),
        agreement_gain=_agreement_gain(results.get("agreement_by_image"), runs[-1][1]),
    )


def _agreement_gain(found: dict[str, Any] | None, run: Path) -> AgreementGain | None:
    if found is None:
        return None
    before, after = Agreements.load(RunFolder(run).agreements).known()
    quarters = [Quarter(**{**each, "gain": Interval(**each["gain"])}) for each in found["quarters"]]
    return AgreementGain(found["n_flat"], before, after, Interval(**found["gain"]), found["gained_rate"], quarters)


def _explanations(
    pixels: Tensor,
    subjects: Sequence[Subject],
    contenders: Sequence[Contender],
    names: Sequence[str],
    layers: list[str],
) -> list[Sheet]:
    """Lay Grad-CAM and guided backpropagation side by side, before and after: one sheet per image."""
    by_run = []
    for each in contenders:
        kind = attention_kind(each.network, each.card, ("gradcam", "guided"), tuple(layers), PREDICTED)
        sheets = [explanation.block for explanation in kind.explain(pixels, subjects)]
        by_run.append([sheet.rows[0][1] for sheet in sheets if isinstance(sheet, Sheet)])
    return [
        Sheet(named(subject.path, subject.label), (), list(zip(names, pictures, strict=True)))
        for subject, pictures in zip(subjects, zip(*by_run, strict=True), strict=True)
    ]


def _kept_row(name: str, values: dict[str, Any]) -> KeptRow:
    difference = values["difference"]
    paired = Paired(Interval(difference["value"], difference["low"], difference["high"]), difference["p"])
    return KeptRow(name, values["whole"], values["marked"], values["box"], paired, values["collapsed"])
