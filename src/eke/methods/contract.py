"""What a training method is: a module with options, views and `forward(batch) -> StepResult`. Nothing else."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from eke.config import Options
from eke.data.stream import Batch, ViewPlan
from eke.methods.terms import AttentionOptions, AttentionTerm
from eke.models.network import Network


class Setting(NamedTuple):
    """The facts of a run that a method may depend on."""

    n_classes: int
    """K; 0 for a method that learns without labels."""
    n_labeled: int
    """Images in the labeled training pool."""
    n_unlabeled: int
    """Images in the unlabeled pool; `batch.u_index` counts in it."""
    total_steps: int
    """Steps of the whole run: ramps are fractions of it."""
    seed: int
    """The run's seed, for `rng(seed, batch.step, stream)`."""
    image_shape: tuple[int, ...]
    """(C, H, W) of the images, or (C, T, H, W) of the clips."""
    embedding_width: int
    """D of `Outputs.embedding`, which a method's own heads read."""
    attention: AttentionOptions = AttentionOptions()
    """For `AttentionTerm`, of methods whose network sees two views of an unlabeled image."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of images and frames."""
        return (self.image_shape[-2], self.image_shape[-1])

    def attend(self, network: Network) -> AttentionTerm:
        """Make the attention term of a method around `network`, the one that is trained; errors as there."""
        return AttentionTerm(self.attention, network, self.size, self.total_steps)


class PseudoLabels(NamedTuple):
    """What the method believed about this step's unlabeled images, for the report's diagnostics."""

    label: Tensor
    """(U,) int64."""
    mask: Tensor
    """(U,) float in [0, 1]: how much each counted in the loss."""


class StepResult(NamedTuple):
    """A NamedTuple, because DistributedDataParallel looks into tuples and not into dataclasses."""

    loss: Tensor
    """Scalar with gradient. On N processes: the mean over ranks is the global batch's loss."""
    terms: dict[str, Tensor]
    """Detached scalars, left on the device; names as in the paper ("loss_x", "loss_u", "mask_rate")."""
    pseudo: PseudoLabels | None = None


class Method(Protocol):
    """A final `nn.Module`: state is buffers, teachers are submodules, so saving and DDP need no further code.

    A self-supervised method declares no labeled view; its network has no class head. A method published in several
    forms names them in `presets`: Mapping[str, Mapping], each laid over its recipe, with `method` and `views` too. One
    that speaks of labels by `network.kind` alone, and so learns from images with several, says `several_labels = True`.

    Five rules let N processes equal one: every trainable parameter gets a gradient at every step; no
    data-dependent branch around a forward or a collective; batches are contiguous slices of the global batch;
    statistics over a batch are reduced over ranks (`eke.collectives`); `forward` advances state once per step.
    """

    Config: ClassVar[type[Options]]
    """The method's own options, with the paper's defaults."""
    recipe: ClassVar[Mapping[str, Any]]
    """The paper's defaults for shared options, nested as in a file: {"batch": {"mu": 7}, "optim": {"lr": 0.03}}."""
    views: ClassVar[ViewPlan]
    """The views the stream must make; reading another is a KeyError."""
    network: Network

    def __init__(self, config: Options, network: Network, setting: Setting) -> None: ...

    def __call__(self, batch: Batch) -> StepResult: ...


def is_self_supervised(method: type[Method]) -> bool:
    """Tell whether a method learns from unlabeled images alone."""
    return not method.views.labeled


def presets_of(method: type[Method]) -> Mapping[str, Mapping[str, Any]]:
    """Return the published forms of a method by name; most have one, which needs no name."""
    presets: Mapping[str, Mapping[str, Any]] = getattr(method, "presets", {})
    return presets
