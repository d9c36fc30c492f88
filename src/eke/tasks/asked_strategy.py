"""How a strategy is spelled, and which one fits a regime.

entropy, margin, badge ...              a name of `eke.acquire.strategies.STRATEGIES`
eba:FORM[@SCALE][/sum|/max][/oracle]    explanation-based attention (`eke.tasks.descriptors`, `eke.acquire.eba`)
"""

import re
from typing import NamedTuple, cast, get_args

from eke.acquire.eba import How
from eke.acquire.strategies import STRATEGIES
from eke.errors import ConfigError, did_you_mean
from eke.tasks.descriptors import Form

_EBA = re.compile(r"eba:(?P<form>\w+)(?:@(?P<scale>[\w.,]+))?(?:/(?P<how>sum|max))?(?P<oracle>/oracle)?")
PER_CLASS = 20
"""Labels per class up to which labels are few."""
LARGE = 2000
"""Images of a batch beyond which a choice by distances takes long."""


class AskedAttention(NamedTuple):
    """A spelling of explanation-based attention, taken apart."""

    form: Form
    scale: str | None
    how: How
    oracle: bool
    """Whether it may look at the true classes."""


class Asked(NamedTuple):
    """A strategy, as it was asked for."""

    spelled: str
    name: str
    """Of STRATEGIES; "eba" of attention."""
    sentence: str
    attention: AskedAttention | None = None

    @property
    def needs(self) -> frozenset[str]:
        """What it must know of each image, as `eke.acquire.contract.Strategy.needs`."""
        return STRATEGIES[self.name].needs if self.name in STRATEGIES else frozenset({"descriptors"})

    @property
    def uses_passes(self) -> bool:
        """Whether the number of passes, or of steps of attention, makes a difference."""
        if self.attention is not None:
            return self.attention.form in {"ig", "random"}
        return self.draws_dropout

    @property
    def draws_dropout(self) -> bool:
        """Whether it sends images through the network with dropout on."""
        return "passes" in self.needs


def read_strategy(text: str, *, ensemble: bool = False) -> Asked:
    """Read a strategy, for one run or for an ensemble.

    Example:
        >>> read_strategy("eba:ig@L90").attention
        AskedAttention(form='ig', scale='L90', how='round_robin', oracle=False)

    Raises:
        ConfigError: there is no such strategy, or its images cannot be drawn by one run.
    """
    if text in STRATEGIES:
        if "draws" in STRATEGIES[text].needs and not ensemble:
            raise ConfigError(
                f"{text} needs several networks that each see all images. Name more runs on the same labels by "
                "--ensemble, or ask for bald, which one run with dropout can do."
            )
        return Asked(text, text, STRATEGIES[text].sentence)
    match = _EBA.fullmatch("eba:ig" if text == "eba" else text)
    if not match:
        raise ConfigError(f"Unknown strategy {text!r}. {did_you_mean(text, [*STRATEGIES, 'eba:ig', 'auto'])}")
    form = match["form"]
    if form not in get_args(Form):
        raise ConfigError(f"There is no attention {form!r}. {did_you_mean(form, get_args(Form))}")
    how = "by their features" if form == "none" else "for the same reasons"
    sentence = f"the images that resemble, {how}, validation images that the network gets wrong"
    how_ranked = cast("How", match["how"] or "round_robin")
    attention = AskedAttention(cast("Form", form), match["scale"], how_ranked, match["oracle"] is not None)
    return Asked(text, "eba", sentence, attention)


def choose_by_regime(n_labels: int, n_classes: int, n: int, *, several: bool) -> tuple[Asked, str]:
    """Choose a strategy by how many labels there are, and say why.

    With few labels probabilities are poor and a varied batch matters most; later a margin is worth more. A batch that
    is large is drawn, so that near-duplicates do not come together.

    Args:
        n_labels: that the run spent.
        n_classes: K; 0 of a network that was trained without labels.
        n: images to ask for.
        several: whether images may have several labels.
    """
    few = n_labels < PER_CLASS * n_classes
    if not n_classes:
        name, why = "typiclust", "with no label yet, the most typical image of each cluster comes first"
    elif several:
        name, why = (
            "power_entropy",
            "undecided images of several labels are drawn, so that not all are alike",
        )
    elif few and n <= LARGE:
        name, why = "badge", f"with {n_labels:,} labels of {n_classes:,} classes a varied batch matters most"
    elif few:
        name, why = "power_margin", f"{n:,} images are too many to compare each with each, so they are drawn by margin"
    else:
        name, why = (
            "cluster_margin",
            f"with {n_labels:,} labels margins can be trusted; clusters keep the batch varied",
        )
    return read_strategy(name), f"auto chose {name}: {why}."
