"""How figures, intervals and differences are put into words: the same everywhere."""

import math

from eke.metrics.statistics import Interval, Paired
from eke.report.page import Cell, Tone

MINUS = "\N{MINUS SIGN}"


def percent(rate: float) -> str:
    """Print a rate: 0.9134 -> "91.3 %"; NaN is "not known"."""
    return "not known" if math.isnan(rate) else f"{100 * rate:.1f} %"


def points(difference: float) -> str:
    """Print a difference of rates in percentage points with its sign: 0.073 -> "+7.3"."""
    text = f"{100 * difference:+.1f}"
    return text.replace("+0.0", "0.0").replace("-0.0", "0.0").replace("-", MINUS)


def count(n: int, one: str, several: str | None = None) -> str:
    """Print a number with its noun: 1 -> "1 label", 1257 -> "1,257 labels"."""
    return f"{n:,} {one if n == 1 else several or one + 's'}"


def p_value(p: float) -> str:
    """Print a p-value as one does: "p = 0.032", "p < 0.001", or nothing where there is none."""
    if math.isnan(p):
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def ends(interval: Interval, *, signed: bool = False) -> str:
    """Print the ends of an interval of rates or of their differences; nothing where they are not finite."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return ""
    if signed:
        return f"{points(interval.low)} to {points(interval.high)}"
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def rate_cell(interval: Interval | None) -> Cell:
    """Put a rate with its interval under it; a dash where nothing was measured."""
    if interval is None:
        return Cell("\N{EN DASH}")
    return Cell(percent(interval.value), ends(interval) or "no interval from one run")


def verdict(paired: Paired, *, higher_is_better: bool, p: float, alpha: float) -> Tone:
    """Say whether a difference is for the better, for the worse, or cannot be told.

    It cannot be told where the interval contains 0, or where `p` (adjusted, where there are several) is above
    `alpha`.
    """
    if not paired.decided or p > alpha:
        return "unsure"
    return "better" if (paired.interval.value > 0) == higher_is_better else "worse"


def survives(paired: Paired, p: float, alpha: float) -> bool:
    """Say whether a difference gets a star: its interval is without 0 and its adjusted p at most `alpha`."""
    return paired.decided and p <= alpha


def star_in_words(n: int, alpha: float) -> str:
    """Say what the star at one of `n` differences means."""
    return (
        f"* survives Holm's correction for {count(n, 'comparison')}: the corrected p is at most {alpha:.2g}, and the "
        "interval is without 0. Every other difference cannot be told from chance."
    )


VERDICT_WORDS: dict[Tone, str] = {"better": "better", "worse": "worse", "unsure": "cannot tell", "": ""}


def difference_cell(
    paired: Paired | None, *, higher_is_better: bool, p: float | None = None, level: float = 0.95
) -> Cell:
    """Put a difference in points with its verdict, and under it interval and p.

    Args:
        paired: the difference; a dash where there is none.
        higher_is_better: False for errors.
        p: the p-value to print and judge by, where it was adjusted; otherwise the difference's own interval
            decides and its own p is printed.
        level: confidence level, 1 - alpha of an adjusted p.
    """
    if paired is None:
        return Cell("\N{EN DASH}")
    shown = paired.p if p is None else p
    tone = verdict(paired, higher_is_better=higher_is_better, p=math.nan if p is None else p, alpha=1 - level)
    detail = "\n".join(part for part in (ends(paired.interval, signed=True), p_value(shown)) if part)
    return Cell(f"{points(paired.interval.value)} · {VERDICT_WORDS[tone]}", detail or "no interval from one run", tone)
