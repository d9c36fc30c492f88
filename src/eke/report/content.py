"""What a report says, as plain values: the tasks fill them in, `run.py` and `compare.py` lay them out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eke.metrics.classification import Reliability
from eke.metrics.statistics import Interval, Paired
from eke.report.charts import Curve
from eke.report.page import Sheet
from eke.report.pictures import Image
from eke.report.projection import Projection

Pairing = Literal["paired", "unpaired"]
"""Whether two runs are compared on the same images, or each on its own."""


class Metric(NamedTuple):
    """What is measured."""

    title: str
    words: str
    """The same inside a sentence."""
    higher_is_better: bool = True


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("Accuracy", "accuracy"),
    "mean_average_precision": Metric("mAP", "mAP"),
    "macro_f1": Metric("Macro-F1", "macro F1"),
    "micro_f1": Metric("Micro-F1", "micro F1"),
    "calibration_error": Metric("Calibration error", "calibration error", higher_is_better=False),
}
"""By their names in results.json."""


@dataclass(frozen=True)
class Budget:
    """The labels a person had to give."""

    train: int
    validation: int

    @property
    def total(self) -> int:
        """Training and validation labels together: both were given."""
        return self.train + self.validation

    def in_words(self) -> str:
        """Print "40 labels = 32 train + 8 validation"."""
        noun = "label" if self.total == 1 else "labels"
        return f"{self.total:,} {noun} = {self.train:,} train + {self.validation:,} validation"


@dataclass(frozen=True)
class Figures:
    """One row of figures: a model, measured on the images that the report names."""

    name: str
    values: Mapping[str, Interval] = field(default_factory=dict)
    """By the names of METRICS, the one that is spoken of first; empty where it was not measured."""
    labels: int | None = None
    """Labels it was given, validation included."""
    images: int | None = None
    """Images that went through the network in training, all views counted."""
    note: str = ""
    """A quiet line under the name, such as "same labels, augmentation, labeled batch and steps"."""

    @property
    def main(self) -> Interval | None:
        """The figure that is spoken of."""
        return next(iter(self.values.values()), None)

    @property
    def metric(self) -> Metric:
        """What it is a figure of."""
        return METRICS[next(iter(self.values), "accuracy")]


@dataclass(frozen=True)
class Differences:
    """A run minus another model, on the same images."""

    against: str
    values: Mapping[str, Paired] = field(default_factory=dict)
    """As those of `Figures`."""


@dataclass(frozen=True)
class CurveChart:
    """Several curves that share one chart."""

    title: str
    curves: Sequence[Curve]
    rate: bool = False
    """Whether the values lie in [0, 1] and are printed as percentages."""


@dataclass(frozen=True)
class PseudoLabelReport:
    """What the method believed about the unlabeled images. Any part may be missing."""

    steps: Sequence[float] = ()
    mask_rate: Sequence[float] = ()
    """Per step the share of unlabeled images that counted, in [0, 1]."""
    accuracy: Sequence[float] = ()
    """Per step, of the pseudo-labels that counted, the share that was right; NaN where no truth is known."""


class ClassFigures(NamedTuple):
    """How well one class is found, where images may have several."""

    name: str
    n: int
    """Evaluated images that have it."""
    n_predicted: int
    average_precision: float
    """NaN, as `f1`, where no image has it."""
    f1: float
    threshold: float
    """The probability from which it is predicted."""


@dataclass(frozen=True)
class PoolPredictions:
    """What the trained network takes the unlabeled images for, beside the labels that it learned from."""

    predicted: NDArray[np.int64]
    """(K,) images of a sample of the pool by predicted class."""
    labeled: NDArray[np.int64]
    """(K,) labels that it was trained on."""


@dataclass(frozen=True)
class ViewRow:
    """One image as the network sees it: the same number of pictures in every row."""

    name: str
    images: Sequence[Image]


@dataclass(frozen=True)
class Mistake:
    """An image that the model was confidently wrong about."""

    image: Image
    true: str
    predicted: str
    confidence: float
    path: str


@dataclass(frozen=True)
class ClassExamples:
    """Pictures of what goes wrong with a class that is predicted too often or too seldom."""

    name: str
    mistakes: Sequence[Mistake]
    """Predicted too seldom: its images that were taken for others. Too often: images of others taken for it."""


@dataclass(frozen=True)
class EmbeddingMap:
    """The network's embeddings of the evaluated images, or of a sample of them, on a plane."""

    projection: Projection
    labels: NDArray[np.int64]
    """(n,) classes of the points."""
    predicted: NDArray[np.int64]
    """(n,) what they were taken for."""


@dataclass(frozen=True)
class LayerRow:
    """The maps of one layer that vary most over one image, the liveliest first."""

    layer: str
    size: tuple[int, int]
    """(h, w) of its maps."""
    n_channels: int
    """How many there are."""
    channels: Sequence[int]
    """The chosen ones."""
    maps: NDArray[np.float32]
    """(len(channels), h, w), each scaled to [0, 1]."""


@dataclass(frozen=True)
class LayerReport:
    """What the layers of the network make of one image."""

    image: Image
    path: str
    true: str | None
    """None where it is not labeled."""
    predicted: str | None
    """None where the network has no classes."""
    rows: Sequence[LayerRow]
    """From the earliest layer to the deepest."""


class Decision(NamedTuple):
    """What the network takes one image for, and which class of it is explained."""

    predicted: str
    probability: float
    """Of the predicted class, in [0, 1]."""
    explained: str
    explained_probability: float
    """Of the explained class."""


@dataclass(frozen=True)
class AttentionMap:
    """One attention map of one image, laid over it."""

    map: str
    layer: str
    """"input" where the map is of pixels."""
    size: tuple[int, int]
    """(h, w) of the map."""
    image: Image
    remark: str
    """Why nothing is seen, where that is so; else empty."""


@dataclass(frozen=True)
class AttentionReport:
    """Attention maps of one image, side by side."""

    image: Image
    path: str
    true: str | None
    """None where it is not labeled."""
    decision: Decision
    maps: Sequence[AttentionMap]


@dataclass(frozen=True)
class ConsistencyRow:
    """Where one run looks at an image and at an augmented view of it."""

    name: str
    """ "before: RUN", "after: RUN"."""
    decision: Decision
    """About the image; the same class is explained of the view."""
    map: str
    """MAP@LAYER."""
    maps: Sequence[tuple[Image, str]]
    """Laid over image, view and view: the image's map, the view's, and the image's cut as the view was cut; each with
    a remark as in `AttentionMap`."""
    agreement: float | None
    """Cosine of the last two, each around its mean; None where one is flat."""


@dataclass(frozen=True)
class ConsistencyReport:
    """Whether runs look at the same place of an image and of an augmented view of it."""

    image: Image
    augmented: Image
    path: str
    true: str | None
    """None where it is not labeled."""
    rows: Sequence[ConsistencyRow]
    """One per run; the first is "before"."""


class KeptRow(NamedTuple):
    """Mean probability of the predicted class, where a part of the image is kept and the rest painted over."""

    map: str
    """MAP@LAYER."""
    whole: float
    """Of the whole image."""
    marked: float
    """Where the hottest places of the map are kept."""
    box: float
    """Where a box of the same area in the center is."""
    difference: Paired
    """Marked less box, over images."""
    collapsed: bool
    """Whether the map is not seen to be better than the box; False where there are too few images to say."""


class Quarter(NamedTuple):
    """A quarter of the images, by the agreement of their explanations before."""

    n: int
    low: float
    high: float
    """Ends of the agreement before."""
    before: float
    after: float
    """Mean agreements."""
    gain: Interval


@dataclass(frozen=True)
class AgreementGain:
    """What harmonizing changed in the agreement of both explanations, image by image."""

    n_flat: int
    """Images of which a map is flat, which are left out."""
    before: NDArray[np.float64]
    """(N,) in [-1, 1]."""
    after: NDArray[np.float64]
    """(N,) likewise."""
    gain: Interval
    """Mean of after less before."""
    gained_rate: float
    """Share of the images that agree more than before."""
    quarters: Sequence[Quarter]
    """From the lowest agreement before to the highest."""


@dataclass(frozen=True)
class LookReport:
    """Where a network looks that was trained to look consistently, on held-out images."""

    split: str
    n_images: int
    area_rate: float
    """Share of the image that is kept."""
    agreement: float
    entropy: float
    flat_rate: float
    spread: float
    kept: Sequence[KeptRow]
    sheets: Sequence[ConsistencyReport]
    """The baseline, where there is one, and the run, for a few images and each layer."""
    explanations: Sequence[Sheet] = ()
    """Of a run whose explanations were harmonized: both of them, before and after."""
    agreement_gain: AgreementGain | None = None
    """Of such a run, where there are images enough."""


class BoxRow(NamedTuple):
    """How well one way to mark a place lies beside boxes; each over recognized pairs and over all labeled ones.

    None where there is no such pair.
    """

    name: str
    note: str
    overlap: tuple[Interval | None, Interval | None]
    pointing: tuple[Interval | None, Interval | None]
    energy: tuple[Interval | None, Interval | None]


@dataclass(frozen=True)
class BoxReport:
    """Whether maps lie where the objects are."""

    map: str
    """MAP@LAYER."""
    n_pairs: int
    """Pairs of an evaluated image and one of its classes that has a box in it."""
    n_recognized: int
    """Those whose class is predicted."""
    missed: Interval | None
    """Overlap of the map of the true class where it is not predicted."""
    rows: Sequence[BoxRow]
    """Baseline, run, a box in the center, random maps."""
    differences: Sequence[tuple[str, Paired, int]] = ()
    """Run less baseline in overlap: on which pairs, the difference, how many pairs."""
    sheets: Sequence[Sheet] = ()
    """Images with their boxes below the maps."""


@dataclass(frozen=True)
class Problem:
    """Something that was set aside, and what to do about it."""

    path: str
    kind: str
    remedy: str


@dataclass(frozen=True)
class RunReport:
    """Everything the report of a run may say; what is empty or None is left out of the page."""

    title: str
    command: str
    method: str
    model: str
    classes: Sequence[str]
    budget: Budget
    split: Literal["test", "validation"]
    """Which images the figures were measured on."""
    n_images: int
    """How many of them."""
    run: Figures
    baselines: Sequence[Figures] = ()
    """The first is the supervised baseline with the same labels, or the run that was named in its place."""
    differences: Sequence[Differences] = ()
    """One per baseline that it was compared with; the first decides the headline."""
    level: float = 0.95
    curves: Sequence[CurveChart] = ()
    confusion: NDArray[np.int64] | None = None
    """(K,K) counts, row = label, column = prediction."""
    class_figures: Sequence[ClassFigures] = ()
    """In its place where images may have several labels."""
    reliability: Reliability | None = None
    pseudo_labels: PseudoLabelReport | None = None
    pool: PoolPredictions | None = None
    under_examples: Sequence[ClassExamples] = ()
    """Of the classes that are predicted too seldom; see `eke.report.balance.imbalances`."""
    over_examples: Sequence[ClassExamples] = ()
    """Of those that are predicted too often."""
    embeddings: EmbeddingMap | None = None
    layers: LayerReport | None = None
    look: LookReport | None = None
    boxes: BoxReport | None = None
    view_names: Sequence[str] = ()
    views: Sequence[ViewRow] = ()
    mistakes: Sequence[Mistake] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Hardware, versions, commit, seeds ... in the order they are to be printed."""
    problems: Sequence[Problem] = ()
    notes: Sequence[str] = ()
    """Further sentences for the top, such as why there is no baseline."""


@dataclass(frozen=True)
class Comparison:
    """One difference, `name` minus `against`."""

    name: str
    against: str
    metric: str
    """A name of METRICS."""
    paired: Paired


@dataclass(frozen=True)
class CompareReport:
    """Several runs side by side; what is empty is left out of the page."""

    title: str
    command: str
    split: Literal["test", "validation"]
    measured: str
    """What the intervals are over: "2,000 test images" or "5 seeds, 2,000 test images each"."""
    rows: Sequence[Figures]
    comparisons: Sequence[Comparison] = ()
    """All of them are one family: Holm's correction is made here, over all."""
    curves: Sequence[CurveChart] = ()
    level: float = 0.95
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    test: Pairing = "paired"
    """How the differences were tested."""
