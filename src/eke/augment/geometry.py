"""Geometry as a value: how a view was cut out of its image, and how to cut any map the same way.

Coordinates are pixel edges, as in Pillow's AFFINE transform: x runs from 0 to W, pixel i covers [i, i + 1).
So a matrix made for an image holds for an attention map of any grid size, after scaling.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Size = tuple[int, int]
"""(H, W)."""
Interpolation = Literal["nearest", "bilinear"]


class Geometry(NamedTuple):
    """How each view of a batch was cut out of its source image."""

    matrix: Tensor
    """(N, 2, 3) float32: output (x, y, 1) to source (x, y), both in pixel edges."""
    source_size: Size
    """(H, W) of the source images."""
    size: Size
    """(h, w) of the views."""


class View(NamedTuple):
    """A batch of augmented images."""

    pixels: Tensor
    """(N, C, h, w) float32 in [0, 1]; of clips (N, C, T, h, w), every frame cut alike."""
    geometry: Geometry
    valid: Tensor
    """(N, h, w) bool: pixels that show their own place of the source image: not padding, fill or a hole."""

    def chunk(self, n: int) -> "list[View]":
        """Cut the batch into `n` of equal size, in its order, without copying."""
        parts = (part.chunk(n) for part in (self.pixels, self.geometry.matrix, self.valid))
        return [
            View(pixels, self.geometry._replace(matrix=matrix), valid)
            for pixels, matrix, valid in zip(*parts, strict=True)
        ]


def identity(n: int, size: Size, device: torch.device | None = None) -> Geometry:
    """Return the geometry of `n` views that are their sources."""
    return Geometry(torch.eye(2, 3, device=device).repeat(n, 1, 1), size, size)


def chain(first: Tensor, second: Tensor) -> Tensor:
    """Return `second` followed by `first`: maps (..., 2, 3) of output to source coordinates."""
    linear = first[..., :2] @ second[..., :2]
    return torch.cat((linear, first[..., :2] @ second[..., 2:] + first[..., 2:]), -1)


def compose(first: Geometry, second: Geometry) -> Geometry:
    """Return the geometry of a view of a view: `second` was cut out of what `first` cut out of the source.

    Raises:
        ValueError: `second` was not cut out of views of `first`'s size.
    """
    if first.size != second.source_size:
        raise ValueError(f"the second geometry cuts from images of {second.source_size}, the first makes {first.size}")
    return Geometry(chain(first.matrix, second.matrix), first.source_size, second.size)


def inverse(geometry: Geometry) -> Geometry:
    """Return the geometry that cuts the source out of the view.

    `compose(inverse(weak), strong)` cuts the strong view out of the weak view of the same image.
    """
    (a, b, c), (d, e, f) = (row.unbind(-1) for row in geometry.matrix.unbind(-2))
    # in closed form: torch.linalg.inv would wait for an accelerator to check for singular matrices
    rows = (torch.stack((e, -b, b * f - e * c), -1), torch.stack((-d, a, d * c - a * f), -1))
    matrix = torch.stack(rows, -2) / (a * e - b * d)[..., None, None]
    return Geometry(matrix, geometry.size, geometry.source_size)


def warp(
    maps: Tensor, geometry: Geometry, *, size: Size | None = None, interpolation: Interpolation = "bilinear"
) -> tuple[Tensor, Tensor]:
    """Cut maps of the source images as the views were cut out of the images; differentiable, to any order.

    Args:
        maps: (N, h', w') or (N, C, h', w') floats on any grid that covers the source image.
        geometry: of N views.
        size: grid of the result; by default the grid of `maps`.
        interpolation: bilinear (between centers; beyond the border the border's value) or nearest.

    Returns:
        The warped maps (N, [C,] h, w) of the dtype of `maps`, and (N, h, w) bool: points that lie in the
        source image. Outside it the border's values are continued.

    Example:
        >>> half_turn = Geometry(torch.tensor([[[-1.0, 0, 2], [0, -1, 2]]]), (2, 2), (2, 2))
        >>> warp(torch.tensor([[[1.0, 2], [3, 4]]]), half_turn)[0]
        tensor([[[4., 3.],
                 [2., 1.]]])
    """
    grid_h, grid_w = maps.shape[-2:]
    out_h, out_w = size or (grid_h, grid_w)
    (source_h, source_w), (view_h, view_w) = geometry.source_size, geometry.size
    exact = torch.float64 if maps.dtype == torch.float64 else torch.float32
    x = (torch.arange(out_w, device=maps.device, dtype=exact) + 0.5) * (view_w / out_w)
    y = (torch.arange(out_h, device=maps.device, dtype=exact) + 0.5) * (view_h / out_h)
    m = geometry.matrix.to(exact)[..., None, None]
    at_x = (m[:, 0, 0] * x + m[:, 0, 1] * y[:, None] + m[:, 0, 2]) * (grid_w / source_w)
    at_y = (m[:, 1, 0] * x + m[:, 1, 1] * y[:, None] + m[:, 1, 2]) * (grid_h / source_h)
    valid = (at_x >= 0) & (at_x < grid_w) & (at_y >= 0) & (at_y < grid_h)

    # own gathers: grid_sample has neither a second derivative nor a deterministic gradient on CUDA
    flat = maps.reshape(len(maps), -1, grid_h * grid_w)

    def at(column: Tensor, row: Tensor) -> Tensor:
        place = row.long().clamp_(0, grid_h - 1) * grid_w + column.long().clamp_(0, grid_w - 1)
        return flat.gather(2, place.flatten(1)[:, None].expand(-1, flat.shape[1], -1))

    if interpolation == "nearest":
        warped = at(at_x.floor(), at_y.floor())
    else:
        left, top = (at_x - 0.5).floor(), (at_y - 0.5).floor()
        part_x = (at_x - 0.5 - left).flatten(1)[:, None].to(maps.dtype)
        part_y = (at_y - 0.5 - top).flatten(1)[:, None].to(maps.dtype)
        upper = at(left, top) * (1 - part_x) + at(left + 1, top) * part_x
        lower = at(left, top + 1) * (1 - part_x) + at(left + 1, top + 1) * part_x
        warped = upper * (1 - part_y) + lower * part_y
    return warped.view(*maps.shape[:-2], out_h, out_w), valid
