"""Which network should ask for the extra labels: the question that section 4.1 of the CoMatch report leaves open.

The report's extra labels were asked for by Barlow Twins, and CoMatch gained 0.2 points by them. Here equal numbers of
labels are asked for by Barlow Twins' entropy, by CoMatch's entropy, and at random; CoMatch is trained anew with each.
Beside them: Barlow Twins with its own request, and CoMatch that starts from a Barlow Twins network, half of the budget
for each. There is no figure of a paper to lay beside most of these.
"""

from pathlib import Path

from eke.progress import Progress
from eke.tables.benches import Scale
from eke.tables.comatch_table2 import PAPER, bench_of
from eke.tables.rows import Rows, above
from eke.tasks.grid_table import Claim, Row, Section, Table

SOURCE = "section 4.1, and what it leaves open"


def make_table(scale: Scale, seeds: tuple[int, ...], data: Path | None, out: Path, progress: Progress) -> Table:
    """List the cells of the table; most are those of comatch-table2.

    Raises:
        ConfigError: the paper's scale without its images.
        DataError: images are missing.
    """
    bench = bench_of(scale, seeds, data, out, progress)
    rows = Rows(bench, seeds)
    barlow = rows.pretrained("barlow_twins")
    tuned, comatch = rows.fine_tuned(barlow), rows.semi_supervised("comatch")
    by_barlow = rows.request(tuned, "entropy")
    asked = {
        "Barlow Twins": by_barlow,
        "CoMatch": rows.request(comatch, "entropy"),
        "random": rows.request(comatch, "random"),
    }
    more = {who: rows.semi_supervised("comatch", asked=request) for who, request in asked.items()}
    tuned_more = rows.fine_tuned(barlow, by_barlow)
    from_barlow = rows.semi_supervised("comatch", 0.5, start=rows.pretrained("barlow_twins", 0.5))
    listed = [
        Row("CoMatch", {"Acc.": comatch}, {"Acc.": PAPER["comatch"]["Acc."]}),
        Row(
            "CoMatch + labels by Barlow Twins",
            {"Acc.": more["Barlow Twins"]},
            {"Acc.": PAPER["comatch"]["Acc. Ext."]},
            "highest entropy of the fine-tuned network",
        ),
        Row(
            "CoMatch + labels by CoMatch", {"Acc.": more["CoMatch"]}, note="highest entropy of the first row's network"
        ),
        Row("CoMatch + labels at random", {"Acc.": more["random"]}),
        Row("Barlow Twins", {"Acc.": tuned}, {"Acc.": PAPER["barlow_twins"]["Acc."]}),
        Row("Barlow Twins + its own labels", {"Acc.": tuned_more}, {"Acc.": PAPER["barlow_twins"]["Acc. Ext."]}),
        Row("CoMatch from Barlow Twins", {"Acc.": from_barlow}, note="half of the images for each"),
    ]
    baseline = rows.supervised()
    text = (
        f"Every request is for {bench.n_extra:,} labels, half as many as the first ones. What a request cost, the "
        "network that asks included, is not counted as spent."
    )
    return Table(
        name="label-request",
        title="Which network should ask for labels? (CoMatch report, section 4.1)",
        scale=scale,
        seeds=seeds,
        sections=[Section("Requests", bench.text + text, ("Acc.",), listed)],
        claims=[
            Claim(
                "With labels that CoMatch asks for, CoMatch gains more than with those of Barlow Twins",
                SOURCE,
                [above("asked by CoMatch − asked by Barlow Twins", more["CoMatch"], more["Barlow Twins"])],
                baseline,
            ),
            Claim(
                "Uncertainty sampling chooses the images that best improve the model: better than random ones",
                "section 4.1",
                [above("highest entropy − random", more["CoMatch"], more["random"])],
                baseline,
            ),
            Claim(
                "CoMatch that starts from Barlow Twins is better than CoMatch, at equal budget",
                "an open question",
                [above("from Barlow Twins − from random weights", from_barlow, comatch)],
                baseline,
            ),
        ],
    )
