"""Table 2 of the CoMatch report (He, Jin, Wan, "Semi-Supervised Image Classification"), section 4.

Rows: self-supervised pretraining and fine-tuning (SimCLR, SimSiam, Barlow Twins, an autoencoder), and semi-supervised
training (FixMatch, CoMatch, and SimMatch, which the report does not have). "Acc. Ext." are the same with half as many
labels again, requested by the fine-tuned Barlow Twins network's entropy.

What the report leaves open, and what is done here:
1. The number of a self-supervised row is that of the fine-tuned network, as in section 4.2 of the report; linear probe
   and kNN stand beside it.
2. The rows of the report differ in epochs, batch and tuning. At the small scales all have the same budget.
3. With the requested labels CoMatch is trained anew, and Barlow Twins fine-tuned anew from the same pretraining.
4. The best self-supervised row is the one of the highest mean over seeds in "Acc.". It is named, and CoMatch is judged
   against each of them, since the best of several means is biased upward.
"""

from dataclasses import replace
from pathlib import Path

from eke.progress import Progress
from eke.tables.benches import Bench, Scale, cifar_bench, digits_bench, mnist_bench, paper_benches
from eke.tables.rows import Rows, above
from eke.tasks.grid_table import Claim, Difference, Row, Section, Series, Table

PAPER = {
    "simclr": {"Acc.": 0.21},
    "simsiam": {"Acc.": 0.23},
    "barlow_twins": {"Acc.": 0.24, "Acc. Ext.": 0.26},
    "autoencoder": {"Acc.": 0.18},
    "fixmatch": {"Acc.": 0.29},
    "comatch": {"Acc.": 0.508, "Acc. Ext.": 0.51},
}
NAMES = {
    "supervised": "Supervised",
    "simclr": "SimCLR",
    "simsiam": "SimSiam",
    "barlow_twins": "Barlow Twins",
    "autoencoder": "AE",
    "fixmatch": "FixMatch",
    "comatch": "CoMatch",
    "simmatch": "SimMatch",
}
SELF_SUPERVISED = ("simclr", "simsiam", "barlow_twins", "autoencoder")
COLUMNS = ("Acc.", "Acc. Ext.", "Linear probe", "kNN")
SOURCE = "Table 2"


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the table.

    Raises:
        ConfigError: the paper's scale without its images.
        DataError: images are missing.
    """
    bench = bench_of(scale, seeds, data, out, progress)
    rows = _rows(Rows(bench, seeds))
    main = Section(f"{bench.data.name}, equal budget", bench.text + NUMBERS, COLUMNS, list(rows.values()))
    beside: list[Section] = []
    if scale == "paper":
        reported = paper_benches(data)[0]
        beside = [Section("Epochs of the report", reported.text, COLUMNS, list(_rows(Rows(reported, seeds)).values()))]
    if scale == "cpu":
        beside = [_cifar_section(Rows(cifar_bench(out / "data", data, seeds, progress), seeds))]
    return Table(
        name="comatch-table2",
        title="CoMatch report, Table 2: accuracy with original and extra labels",
        scale=scale,
        seeds=seeds,
        sections=[main, *beside],
        claims=_claims(rows),
        notes=["The sentences are judged on the first table below."],
    )


NUMBERS = (
    "Acc. of a self-supervised row is that of the fine-tuned network, as in the report; linear probe and kNN of the "
    "frozen embedding stand beside it. Acc. Ext.: half as many labels again, those whose prediction by the fine-tuned "
    "Barlow Twins network has the highest entropy; what the request cost is not counted."
)


def _rows(rows: Rows) -> dict[str, Row]:
    pretrained = {method: rows.pretrained(method) for method in SELF_SUPERVISED}
    tuned = {method: rows.fine_tuned(pretrained[method]) for method in SELF_SUPERVISED}
    request = rows.request(tuned["barlow_twins"], "entropy")
    figures: dict[str, dict[str, Series]] = {"supervised": {"Acc.": rows.supervised()}}
    for method in SELF_SUPERVISED:
        figures[method] = {"Acc.": tuned[method], **rows.probed(pretrained[method])}
    for method in ("fixmatch", "comatch", "simmatch"):
        figures[method] = {"Acc.": rows.semi_supervised(method)}
    figures["barlow_twins"]["Acc. Ext."] = rows.fine_tuned(pretrained["barlow_twins"], request)
    figures["comatch"]["Acc. Ext."] = rows.semi_supervised("comatch", asked=request)
    notes = {"supervised": "not in the report", "simmatch": "not in the report"}
    return {
        method: Row(NAMES[method], series, PAPER.get(method, {}), notes.get(method, ""))
        for method, series in figures.items()
    }


def _cifar_section(rows: Rows) -> Section:
    figures = {method: rows.semi_supervised(method) for method in ("fixmatch", "comatch")}
    figures = {"supervised": rows.supervised(), **figures}
    return Section(
        "CIFAR-10, beside it",
        rows.bench.text,
        ("Acc.",),
        [Row(NAMES[method], {"Acc.": series}) for method, series in figures.items()],
    )


def _claims(rows: dict[str, Row]) -> list[Claim]:
    acc = {method: row.figures["Acc."] for method, row in rows.items()}
    extra = {method: rows[method].figures["Acc. Ext."] for method in ("barlow_twins", "comatch")}

    def claim(sentence: str, *differences: Difference, source: str = SOURCE) -> Claim:
        return Claim(sentence, source, differences, acc["supervised"])

    def over(higher: str, *lower: str) -> list[Difference]:
        return [above(f"{NAMES[higher]} − {NAMES[each]}", acc[higher], acc[each]) for each in lower]

    gains = [extra["barlow_twins"], acc["comatch"]], [acc["barlow_twins"], extra["comatch"]]
    return [
        claim("CoMatch obtains a higher accuracy than FixMatch", *over("comatch", "fixmatch")),
        replace(
            claim(
                "CoMatch obtains a higher accuracy than each self-supervised row", *over("comatch", *SELF_SUPERVISED)
            ),
            best_of={NAMES[method]: acc[method] for method in SELF_SUPERVISED},
        ),
        claim("FixMatch obtains a higher accuracy than Barlow Twins", *over("fixmatch", "barlow_twins")),
        claim(
            "Barlow Twins outperformed other contrastive models",
            *over("barlow_twins", "simclr", "simsiam"),
            source="section 4.2",
        ),
        claim(
            "The autoencoder has the lowest accuracy",
            *(over(each, "autoencoder")[0] for each in ("simclr", "simsiam", "barlow_twins", "fixmatch", "comatch")),
        ),
        claim(
            "The accuracy of Barlow Twins increased with extra labels",
            above("Barlow Twins, extra − without", extra["barlow_twins"], acc["barlow_twins"]),
            source="section 4.1",
        ),
        claim(
            "Extra labels help CoMatch less than Barlow Twins",
            Difference("gain of Barlow Twins − gain of CoMatch", *gains),
            source="section 4.1",
        ),
    ]


def bench_of(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Bench:
    """Return the bench that the sentences are judged on; other tables share its cells."""
    if scale == "paper":
        return paper_benches(data)[1]
    if scale == "smoke":
        return digits_bench(out / "data", seeds, progress)
    return mnist_bench(out / "data", data, seeds, progress)
