"""The named augmentations that methods ask for, each as its source has it; docs/views.md lists deviations."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Generator, Tensor

from eke.augment import distributions
from eke.augment.draws import COLORFUL, Draws, Op, matrices, take, to
from eke.augment.geometry import Interpolation, Size, View
from eke.augment.pipeline import make_views

__all__ = ["PRESETS", "Draws", "Preset", "take", "to"]


@dataclass(frozen=True)
class Preset:
    """An augmentation: what it draws, and how its views are made from images and draws."""

    name: str
    source: str
    """Paper or code that it follows."""
    summary: str
    frame: Callable[[int, Size, Generator], Tensor] = distributions.whole
    enlarge: bool = False
    """Frames lie inside the image and are enlarged to its size."""
    flip_rate: float = 0.0
    operations: Callable[[int, Size, Generator], tuple[Tensor, Tensor]] = distributions.no_operations
    unflipped_operations: Callable[[int, Size, Generator], tuple[Tensor, Tensor]] | None = None
    """Of the twin without flips, where these flip too; else they are the same."""
    interpolation: Interpolation = "nearest"
    hole: Callable[[int, Size, Generator], Tensor] = distributions.no_hole
    border_fill: tuple[int, int, int] = (0, 0, 0)
    """Color of what rotation, shear and translation bring in from outside the frame."""
    hole_fill: tuple[int, int, int] | None = None
    """Color of the cutout; None where there is none."""

    def draw(self, n: int, channels: int, source_size: Size, generator: Generator) -> Draws:
        """Draw the parameters of `n` views, on the CPU.

        Args:
            n: views in the global batch.
            channels: 1 or 3. For 1, operations on color are drawn and do nothing.
            source_size: (H, W) of the images.
            generator: on the CPU; the draws depend on nothing else.

        Raises:
            ValueError: neither 1 nor 3 channels.

        Example:
            >>> draws = PRESETS["weak"].draw(4, 3, (32, 32), torch.Generator().manual_seed(0))
            >>> draws.box.shape, draws.flip.dtype
            (torch.Size([4, 4]), torch.bool)
        """
        if channels not in (1, 3):
            raise ValueError(f"images have 1 or 3 channels, not {channels}")
        box = self.frame(n, source_size, generator)
        flip = torch.rand(n, generator=generator) < self.flip_rate
        ops, levels = self.operations(n, source_size, generator)
        if channels == 1:
            ops = torch.where(torch.isin(ops, torch.tensor(COLORFUL)), int(Op.IDENTITY), ops)
        hole = self.hole(n, source_size, generator)
        return Draws(box, flip, ops, levels, matrices(ops, levels, source_size), hole)

    def apply(self, images: Tensor, draws: Draws) -> View:
        """Make one view of each image; see `make_views`.

        Args:
            images: (N, C, H, W) uint8, C = 1 or 3, on any device; or clips (N, C, T, H, W).
            draws: of N views, from `draw` for the same (C, H, W); all frames of a clip share one.

        Returns:
            Views of the images' own size, on their device.
        """
        return make_views(
            images,
            draws,
            enlarge=self.enlarge,
            interpolation=self.interpolation,
            border_fill=self.border_fill,
            hole_fill=self.hole_fill,
        )


_GREY = (128, 128, 128)
_SIMCLR_JITTER = (0.8, 0.8, 0.8, 0.2)
_BARLOW_TWINS_JITTER = (0.4, 0.4, 0.2, 0.1)
_CLIPS_JITTER = (0.8, 0.8, 0.8, 0.4)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("none", "none", "the image itself"),
        Preset(
            "flip",
            "Semi-Supervised Image Classification (He, Jin, Wan), section 4.1: CoMatch's weak view",
            "flip",
            flip_rate=0.5,
        ),
        Preset(
            "weak",
            "FixMatch (Sohn et al. 2020), section 2.3; code google-research/fixmatch, libml/augment.py",
            "flip, then crop after reflect padding by an eighth of each side (4 pixels at 32)",
            frame=distributions.shifted,
            flip_rate=0.5,
        ),
        Preset(
            "randaugment/google",
            "FixMatch (Sohn et al. 2020), appendix; code google-research/fixmatch, libml/augment.py (rac)",
            "weak, 2 of 14 operations, each with rate 1/2 at level 1 to 9 of 10, cutout of half the side",
            frame=distributions.shifted,
            flip_rate=0.5,
            operations=distributions.google,
            hole=distributions.half_hole,
            border_fill=_GREY,
            hole_fill=_GREY,
        ),
        Preset(
            "randaugment/torchssl",
            "FlexMatch (Zhang et al. 2021); code TorchSSL/TorchSSL, datasets/augmentation/randaugment.py",
            "weak, 3 of 14 operations at levels uniform in their ranges, cutout of 0 to half the side",
            frame=distributions.shifted,
            flip_rate=0.5,
            operations=distributions.torchssl,
            hole=distributions.torchssl_hole,
            hole_fill=(125, 123, 114),
        ),
        Preset(
            "randaugment/comatch",
            "CoMatch (Li, Xiong, Hoi 2021), section 4; code salesforce/CoMatch, datasets/randaugment.py",
            "weak, 2 of 14 operations, each with rate 1/2 at level 10 of 10, cutout of half the side",
            frame=distributions.shifted,
            flip_rate=0.5,
            operations=distributions.comatch,
            interpolation="bilinear",
            hole=distributions.half_hole,
            border_fill=_GREY,
            hole_fill=_GREY,
        ),
        Preset(
            "simclr",
            "SimCLR (Chen et al. 2020), as in CoMatch; code salesforce/CoMatch, datasets/cifar.py",
            "resized crop of 0.2 to 1 of the area, flip, color jitter 0.4/0.4/0.4/0.1 (0.8), grey (0.2)",
            frame=distributions.resized,
            enlarge=True,
            flip_rate=0.5,
            operations=distributions.color_distortion,
        ),
        Preset(
            "jitter-grey",
            "Semi-Supervised Image Classification (He, Jin, Wan), section 4.1; decisions in docs/views.md",
            "flip, color jitter 0.4/0.4/0.4/0.1 (0.8), grey (0.2)",
            flip_rate=0.5,
            operations=distributions.color_distortion,
        ),
        Preset(
            "resized-flip",
            "CoMatch (Li, Xiong, Hoi 2021) on ImageNet; code salesforce/CoMatch, imagenet/Train_CoMatch.py",
            "resized crop of 0.2 to 1 of the area, flip",
            frame=distributions.resized,
            enlarge=True,
            flip_rate=0.5,
        ),
        Preset(
            "simclr/imagenet",
            "SimCLR (Chen et al. 2020), appendix A; code google-research/simclr, data_util.py",
            "resized crop of 0.08 to 1 of the area, flip, color jitter 0.8/0.8/0.8/0.2 (0.8), grey (0.2), blur (0.5)",
            frame=partial(distributions.resized, area=(0.08, 1.0)),
            enlarge=True,
            flip_rate=0.5,
            operations=partial(distributions.color_distortion, strengths=_SIMCLR_JITTER, blur_rate=0.5),
        ),
        Preset(
            "simclr/cifar",
            "SimCLR (Chen et al. 2020), appendix B.9; code google-research/simclr, README.md",
            "resized crop of 0.08 to 1 of the area, flip, color jitter 0.4/0.4/0.4/0.1 (0.8), grey (0.2)",
            frame=partial(distributions.resized, area=(0.08, 1.0)),
            enlarge=True,
            flip_rate=0.5,
            operations=distributions.color_distortion,
        ),
        Preset(
            "simclr/clips",
            "Harmonizing Attention, section 4.2; decisions in docs/views.md",
            "crop of 9/10 of each side, flip, color jitter 0.8/0.8/0.8/0.4",
            frame=partial(distributions.cropped, rate=0.9),
            enlarge=True,
            flip_rate=0.5,
            operations=partial(distributions.jitter, strengths=_CLIPS_JITTER),
        ),
        Preset(
            "barlow_twins/1",
            "Barlow Twins (Zbontar et al. 2021), section 3, after BYOL (Grill et al. 2020), appendix B: first view",
            "resized crop of 0.08 to 1 of the area, flip, color jitter 0.4/0.4/0.2/0.1 (0.8), grey (0.2), blur",
            frame=partial(distributions.resized, area=(0.08, 1.0)),
            enlarge=True,
            flip_rate=0.5,
            operations=partial(distributions.color_distortion, strengths=_BARLOW_TWINS_JITTER, blur_rate=1.0),
        ),
        Preset(
            "barlow_twins/2",
            "Barlow Twins (Zbontar et al. 2021), section 3, after BYOL (Grill et al. 2020), appendix B: second view",
            "as barlow_twins/1, but blur (0.1), solarize (0.2)",
            frame=partial(distributions.resized, area=(0.08, 1.0)),
            enlarge=True,
            flip_rate=0.5,
            operations=partial(
                distributions.color_distortion, strengths=_BARLOW_TWINS_JITTER, blur_rate=0.1, solarize_rate=0.2
            ),
        ),
        Preset(
            "swav",
            "SwAV (Caron et al. 2020), its large crops; code facebookresearch/swav, src/multicropdataset.py",
            "resized crop of 0.14 to 1 of the area, flip, color jitter 0.8/0.8/0.8/0.2 (0.8), grey (0.2), blur (0.5)",
            frame=partial(distributions.resized, area=(0.14, 1.0)),
            enlarge=True,
            flip_rate=0.5,
            operations=partial(distributions.color_distortion, strengths=_SIMCLR_JITTER, blur_rate=0.5),
        ),
        Preset(
            "crop-rotate-jitter",
            "Consistency training with Grad-CAM (Lee, Cho), section IV; decisions in docs/views.md",
            "resized crop of 3/4 to 1 of each side, flip, a quarter turn or none, jitter 0.4/0.4/0.4/0.1",
            frame=distributions.trimmed,
            enlarge=True,
            flip_rate=0.5,
            operations=distributions.quarter_turn_and_jitter,
        ),
        Preset(
            "pascal",
            "Harmonizing Attention, section 4.2: PASCAL VOC; decisions in docs/views.md",
            "rotation by up to 10 degrees, flip left to right, flip top to bottom",
            flip_rate=0.5,
            operations=partial(distributions.turned, degrees=10.0, upside_down_rate=0.5),
            unflipped_operations=partial(distributions.turned, degrees=10.0),
        ),
    )
}
PRESETS |= {
    f"{preset.name}-noflip": replace(
        preset,
        name=f"{preset.name}-noflip",
        summary=f"{preset.name} without the flip: for digits, and whatever else a mirror changes",
        flip_rate=0.0,
        operations=preset.unflipped_operations or preset.operations,
    )
    for preset in tuple(PRESETS.values())
    if preset.flip_rate
}
"""Name -> preset."""
