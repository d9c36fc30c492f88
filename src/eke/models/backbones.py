"""Networks by name: eke's own, any of timm's or torchvision's, or a module of the user's."""

import copy
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eke.errors import CheckpointError, ConfigError, did_you_mean
from eke.losses.kinds import IN_SHARES, ONE, YES_OR_NO
from eke.models.network import ModelOptions, Network, reads_clips
from eke.models.resnet import ResNet20, resnet
from eke.models.small import Cnn8, LeNet, Small
from eke.models.tap import Layout, similar_layer
from eke.models.weights import read_weights
from eke.models.wide_resnet import WideResNet
from eke.randomness import mixed_seed

OWN = ("small", "lenet", "cnn8", "resnet20", "wrn-28-2", "wrn-28-8", "resnet18", "resnet50")
"""The names of eke's own models."""
VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18")
"""The names of torchvision's models that read clips (Tran et al. 2018, arXiv:1711.11248)."""


class _Body(NamedTuple):
    module: nn.Module
    channels: int
    layout: Layout = Layout()
    head_dropout: float = 0.0
    published: tuple[Sequence[float], Sequence[float]] | None = None
    """Mean and standard deviation that the published weights of this model were trained with."""


def resolve_name(name: str, size: tuple[int, int]) -> str:
    """Return the model that `name` stands for on images of `size` (H, W).

    "auto" depends on the longer side only: up to 16 `small`, up to 40 `wrn-28-2`, above `resnet18`. A bare
    name is eke's own, else timm's, else torchvision's.

    Raises:
        ConfigError: nobody has a model of this name.
    """
    if name == "auto":
        return "small" if max(size) <= 16 else "wrn-28-2" if max(size) <= 40 else "resnet18"
    if name in OWN:
        return name
    source, slash, bare = name.rpartition("/")
    if not slash or source == "timm":
        import timm

        if timm.is_model(bare):
            return f"timm/{bare}"
    if (not slash or source == "torchvision") and bare in _torchvision_names():
        return f"torchvision/{bare}"
    raise ConfigError(f"There is no model {name!r}. {_suggestion(bare, source)}")


def build_network(
    options: ModelOptions,
    *,
    n_classes: int,
    channels: int,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    several: bool = False,
    frames: int | None = None,
) -> Network:
    """Make the network; the same arguments give the same weights, and no global random state is touched.

    Its structure does not depend on `pretrained` and `weights`, so a saved state can be loaded into a network
    made without them. Models of timm and torchvision read three channels: grey images are repeated.

    Args:
        options: which network.
        n_classes: K; 0 gives a network without a head, whose logits are the embedding.
        channels: of the images: 1, 3, or any number for models other than torchvision's.
        size: (H, W) of the images.
        mean: of the training images, `channels` numbers in [0, 1]. Published weights bring their own.
        std: likewise.
        seed: of the initial weights.
        several: whether an image may have several labels.
        frames: T of clips; None for images. Models of images read clips frame by frame.

    Raises:
        ConfigError: no such model, or it cannot be made for these images or with these options.
        CheckpointError: the file of weights is missing, damaged or of another model.
    """
    name = resolve_name(options.name, size)
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also reseed accelerators, whose state is not restored
        torch.default_generator.manual_seed(mixed_seed(seed, 0, "network"))
        body = _make(name, options, channels, size)
        width = _embedding_width(body.module, body.channels, size, frames, name)
        head = _head(width, n_classes, name)
    if len(mean) == 1:
        mean, std = tuple(mean) * body.channels, tuple(std) * body.channels
    if options.pretrained or options.weights:
        mean, std = body.published or (mean, std)
    if options.weights:
        mean, std = _load(body.module, options.weights) or (mean, std)
    return Network(
        body.module,
        head,
        width=width,
        mean=mean,
        std=std,
        dropout=body.head_dropout,
        layout=body.layout,
        kind=(YES_OR_NO if options.several == "yes_or_no" else IN_SHARES) if several else ONE,
        frames=frames,
    )


def from_module(
    module: nn.Module,
    n_classes: int,
    *,
    size: tuple[int, int],
    head: str | None = None,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.25, 0.25, 0.25),
    layout: Layout | None = None,
    frames: int | None = None,
    seed: int = 0,
) -> Network:
    """Make a network of any module that gives (N, D), or maps (N, D, [t,] h, w), which are averaged.

    Args:
        module: becomes the body; it is not copied.
        n_classes: K of the new linear head; 0 for none.
        size: (H, W) of the images.
        head: name of the module's own class head ("fc"), which is replaced by `Identity`.
        mean: one number for each channel that the module reads, for images in [0, 1].
        std: likewise.
        layout: how the tensors inside hold the image, where it is not (N, C, h, w).
        frames: T of the clips to classify; None for images. Clips are read frame by frame, unless the module has 3-D
            convolutions.
        seed: of the new head's weights.

    Raises:
        ConfigError: there is no layer `head`, or the module cannot read such images.
    """
    if head is not None:
        names = [name for name, _ in module.named_modules() if name]
        if head not in names:
            raise ConfigError(f"The module has no layer {head!r}. {similar_layer(head, names)}")
        module.set_submodule(head, nn.Identity())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mixed_seed(seed, 0, "network"))
        width = _embedding_width(module, len(mean), size, frames, type(module).__name__)
        new_head = _head(width, n_classes, "")
    return Network(module, new_head, width=width, mean=mean, std=std, layout=layout, frames=frames)


def _make(name: str, options: ModelOptions, channels: int, size: tuple[int, int]) -> _Body:
    source, slash, bare = name.rpartition("/")
    rate = options.dropout or 0.0
    if slash:
        return (_timm if source == "timm" else _torchvision)(bare, options.pretrained, channels, size, rate)
    if options.pretrained:
        raise ConfigError(
            f"model.pretrained: eke's own {name} has no published weights. "
            "Set model.name to a timm or torchvision model, such as torchvision/resnet18."
        )
    match name:
        case "lenet":
            inner, rate = (0.25, 0.5) if options.dropout is None else (rate, rate)
            module: nn.Module = LeNet(channels, size, inner)
        case "cnn8":  # its last dropout is the one before the head
            module, rate = Cnn8(channels, size, 0.3 if options.dropout is None else rate), 0.0
        case "small":
            module = Small(channels, size)
        case "resnet20":
            module = ResNet20(channels)
        case "resnet18" | "resnet50":
            module = resnet(name, channels, size)
        case _:
            module = WideResNet(channels, width=int(name.rpartition("-")[2]))
    return _Body(module, channels, head_dropout=rate)


def _timm(name: str, pretrained: bool, channels: int, size: tuple[int, int], rate: float) -> _Body:
    import timm

    channels = 3 if channels == 1 else channels
    known = timm.get_pretrained_cfg(name)
    fixed: dict[str, Any] = {"img_size": size} if known is not None and known.fixed_input_size else {}
    try:
        module = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=channels, **fixed)
    except (AssertionError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"timm cannot make {name!r} for {size} images: {error}") from error
    layout = Layout(getattr(module, "output_fmt", "") == "NHWC", getattr(module, "num_prefix_tokens", None))
    published = (known.mean, known.std) if known is not None and channels == 3 else None
    return _Body(module, channels, layout, rate, published)


def _torchvision(name: str, pretrained: bool, channels: int, size: tuple[int, int], rate: float) -> _Body:
    from torchvision import models

    if channels not in (1, 3):
        raise ConfigError(f"torchvision/{name} reads 3 channels, not {channels}: choose another model.name.")
    extra: dict[str, Any] = {}
    if name.startswith("vit_"):
        extra["image_size"] = size[0]
    if name in ("googlenet", "inception_v3"):  # the published weights' form, with or without them
        extra.update(aux_logits=False, transform_input=True, init_weights=not pretrained)
    try:
        module = models.get_model(name, weights="DEFAULT" if pretrained else None, **extra)
    except (AssertionError, OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"torchvision cannot make {name!r} for {size} images: {error}") from error
    linear = [key for key, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ConfigError(f"torchvision/{name} has no linear class head. Choose another model.name.")
    module.set_submodule(linear[-1], nn.Identity())
    tokens = 1 if isinstance(module, models.VisionTransformer) else None
    layout = Layout(channels_last=isinstance(module, models.SwinTransformer), prefix_tokens=tokens)
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    kinetics = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
    return _Body(module, 3, layout, rate, kinetics if name in VIDEO else imagenet)


def _embedding_width(module: nn.Module, channels: int, size: tuple[int, int], frames: int | None, name: str) -> int:
    """Return D, from one black image or clip."""
    spans_time = reads_clips(module)
    if spans_time and frames is None:
        raise ConfigError(f"{name} reads clips, and these are images: choose another model.name, such as resnet18.")
    shape = (channels, *([frames] if spans_time and frames else []), *size)
    probe = copy.deepcopy(module).eval()  # a copy: modes and running statistics stay as they are
    try:
        with torch.no_grad():
            embedding = probe(torch.zeros(1, *shape))
    except (AssertionError, RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"{name} cannot read {channels}-channel images of {size}: {error}") from error
    if not isinstance(embedding, Tensor) or embedding.ndim < 2:
        raise ConfigError(f"{name} must give one tensor (N, D) or (N, D, h, w), not a {type(embedding).__name__}.")
    return embedding.shape[1]


def _head(width: int, n_classes: int, name: str) -> nn.Module:
    if n_classes == 0:
        return nn.Identity()
    head = nn.Linear(width, n_classes)
    if name.startswith("wrn"):  # as in the FixMatch recipe
        nn.init.xavier_normal_(head.weight)
        nn.init.zeros_(head.bias)
    return head


def _load(body: nn.Module, path: Path) -> tuple[list[float], list[float]] | None:
    """Load a body's weights, and return mean and standard deviation where the file is eke's and has them."""
    state = read_weights(path)
    own = any(key.startswith("body.") for key in state)
    values = {key.removeprefix("body."): value for key, value in state.items()} if own else state
    wanted = body.state_dict()
    needed = [key for key in wanted if not key.endswith("num_batches_tracked")]  # old files lack these
    wrong = [key for key in needed if key not in values or values[key].shape != wanted[key].shape]
    if wrong:
        raise CheckpointError(
            f"{path} holds the weights of another model: {len(wrong)} of {len(wanted)} tensors are missing "
            f"or of another shape, such as {wrong[0]!r}. Set model.name to the model that was saved."
        )
    body.load_state_dict({key: values[key] for key in wanted if key in values}, strict=False)
    return (state["mean"].tolist(), state["std"].tolist()) if own and "mean" in state else None


def _torchvision_names() -> list[str]:
    from torchvision import models

    return [*models.list_models(module=models), *VIDEO]


def _suggestion(name: str, source: str) -> str:
    import timm

    known: list[str] = []
    if source in ("", "timm"):
        known += timm.list_models()
    if source in ("", "torchvision"):
        known += _torchvision_names()
    if not source:
        known += OWN
    if source not in ("", "timm", "torchvision"):
        return "A name is one of eke's own, timm/NAME or torchvision/NAME."
    near = get_close_matches(name, known, n=1)
    if near:
        return did_you_mean(name, near)
    return f"eke's own: {', '.join(OWN)}; timm/NAME and torchvision/NAME are those of the two libraries."
