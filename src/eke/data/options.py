"""The options `data.*` and `clip.*`."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from eke.config import Options

MAX_VAL_RATE = 0.9
"""Something must be left to train on."""


class ClipOptions(Options):
    """How recordings, where a source holds some, are cut into clips of equal length. Images ignore it."""

    seconds: float = Field(4.0, gt=0)
    """Length of a clip."""
    fps: float = Field(4.0, gt=0)
    """Frames per second that videos are resampled to; folders of frames are taken as they are, at this rate."""
    stride: float | None = Field(None, gt=0)
    """Seconds from the start of one clip to that of the next; default: clip.seconds, so that none overlap."""

    @model_validator(mode="after")
    def _whole_frames(self) -> Self:
        if self.frames < 2 or not _is_whole(self.seconds * self.fps):
            raise ValueError("choose seconds and fps such that a clip has a whole number of frames, 2 or more")
        if self.step < 1 or not _is_whole((self.stride or self.seconds) * self.fps):
            raise ValueError("choose stride and fps such that clips begin a whole number of frames apart")
        return self

    @property
    def frames(self) -> int:
        """T: frames of a clip."""
        return round(self.seconds * self.fps)

    @property
    def step(self) -> int:
        """Frames from the start of one clip to that of the next."""
        return round((self.stride or self.seconds) * self.fps)


def _is_whole(number: float) -> bool:
    return abs(number - round(number)) < 1e-6


class DataOptions(Options):
    """What becomes of a source: working size, budget of labels, validation, test."""

    size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    """Working size, one number or [height, width]; default: chosen from the images."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """How an image of another shape is brought to the size."""
    channels: Literal[1, 3] | None = None
    """1 (grey) or 3; default: chosen from the images."""
    labels_per_class: int | None = Field(None, ge=1)
    """Use so many labels of each class, training + validation; the other images count as unlabeled."""
    n_labels: int | None = Field(None, ge=1)
    """Use so many labels in all, shared among the classes as they occur, at least one each."""
    val_rate: float = Field(0.2, ge=0, le=MAX_VAL_RATE)
    """Part of the given labels that validates: floor(n * rate) of each class. 0: no validation."""
    val_per_class: int | None = Field(None, ge=1)
    """Instead of val_rate: so many labels of each class validate, besides those that train; both count."""
    val_source: str | None = None
    """Instead of val_rate: another source, whose labeled images validate; they count too."""
    empty_classes: bool = False
    """Whether a class may be without a label to train on: one that is known and rare, and is still to be found."""
    holdout_rate: float = Field(0.0, ge=0, le=0.9)
    """Part of the labeled images of each class that is set apart as test set, where none is named."""
    download: bool = False
    """Whether a torchvision set that is named (cifar10, svhn ...) may be downloaded."""
    group_level: bool = False
    """The folder below the class folder names the group (patient, track) that no split tears apart."""
    unlabeled_with_labeled: bool = True
    """Whether the unlabeled pool holds the labeled training images too, as in FixMatch."""
    unlabeled_source: str | None = None
    """Instead of the source's own: unlabeled images from elsewhere, such as those of a deployment."""
    n_unlabeled: int | None = Field(None, ge=0)
    """Use so many images without a label, drawn by the seed, and leave out the rest; default: all. 0: the labeled
    ones alone, where they are used without their labels, too."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if self.labels_per_class and self.n_labels:
            raise ValueError("set labels_per_class or n_labels, not both")
        if self.val_per_class and self.val_source:
            raise ValueError("set val_per_class or val_source, not both")
        return self

    def working_size(self) -> tuple[int, int] | None:
        """Return (H, W), or None where the images decide."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size
