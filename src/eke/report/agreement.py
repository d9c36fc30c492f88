"""What harmonizing changed in the agreement of two explanations, image by image."""

from eke.metrics.statistics import Interval
from eke.report.content import AgreementGain
from eke.report.page import Block, Cell, Table, Text
from eke.report.scatter import gain_scatter
from eke.report.words import MINUS, count, percent


def gain_blocks(gain: AgreementGain) -> list[Block]:
    """Plot the gain against the agreement before, one dot per image, and give the mean gain of each quarter."""
    rows: list[list[Cell | str]] = [
        [
            f"{_plain(each.low)} to {_plain(each.high)}",
            f"{each.n:,}",
            _plain(each.before),
            _plain(each.after),
            Cell(_signed(each.gain.value), _ends(each.gain)),
        ]
        for each in gain.quarters
    ]
    flat = f"; {count(gain.n_flat, 'image')} with a flat map left out" if gain.n_flat else ""
    return [
        Text(
            f"Grad-CAM and guided backpropagation, {count(len(gain.before), 'image')}{flat}: their agreement changed "
            f"by {_signed(gain.gain.value)} on average ({_ends(gain.gain)}), and rose for "
            f"{percent(gain.gained_rate)} of the images."
        ),
        gain_scatter(
            "Gain in agreement against agreement before",
            "agreement before",
            "gain in agreement",
            gain.before,
            gain.after - gain.before,
            [(each.low, each.high, each.gain) for each in gain.quarters],
        ),
        Text(
            "Beware of regression to the mean: an agreement that is low by chance tends to be higher when it is "
            "measured again, and a high one lower, so that gain falls with agreement before by noise alone; and no "
            "agreement can rise above 1."
        ),
        Table(
            "Quarters of the images by their agreement before",
            ["Agreement before", "Images", "Mean before", "Mean after", "Gain"],
            rows,
        ),
    ]


def _plain(value: float) -> str:
    return f"{value:.2f}".replace("-", MINUS)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", MINUS)


def _ends(interval: Interval) -> str:
    return f"{_signed(interval.low)} to {_signed(interval.high)}"
