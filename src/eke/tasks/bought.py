"""What labels bought: how far a curve rose, and how many labels another one needs to get as far."""

from collections.abc import Sequence


def labels_to_reach(goal: float, labels: Sequence[float], figures: Sequence[float]) -> float | None:
    """Return the number of labels with which a curve first reaches a figure, on straight lines between its points.

    Args:
        goal: the figure.
        labels: (n,) ascending.
        figures: (n,) of the curve.

    Returns:
        None where the curve ends below.

    Example:
        >>> labels_to_reach(0.75, [100, 200], [0.5, 1.0])
        150.0
    """
    for place, (at, value) in enumerate(zip(labels, figures, strict=True)):
        if value < goal:
            continue
        if place == 0:
            return float(at)
        before, below = labels[place - 1], figures[place - 1]
        return before + (at - before) * (goal - below) / (value - below)
    return None


def in_words(name: str, labels: Sequence[float], figures: Sequence[float], random: Sequence[float]) -> str:
    """Say what a strategy's labels bought, beside random ones.

    Args:
        name: of the strategy.
        labels: (n,) ascending.
        figures: (n,) mean test accuracies of the strategy.
        random: (n,) those of random labels.
    """
    first, last = figures[0], figures[-1]
    more = labels[-1] - labels[0]
    said = f"{name}: {more:,.0f} more labels bought {100 * (last - first):+.1f} points, {100 * last:.1f} % at the end"
    needed = labels_to_reach(last, labels, random)
    ours = labels_to_reach(random[-1], labels, figures)
    if ours is None:
        return f"{said}, which random labels exceed by {100 * (random[-1] - last):.1f} points."
    tail = f"; it has what random labels have at the end after {ours:,.0f} of {labels[-1]:,.0f}"
    return f"{said}{tail if needed is None or ours < labels[-1] else ''}."
