import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from pictures import encoded, noise
from PIL import Image

from eke.data.decode import MAX_PIXELS, BadImageError, decode, fit, inspect_and_decode, to_uint8


def kind_of(content: bytes) -> str:
    with pytest.raises(BadImageError) as caught:
        decode(content, channels=3)
    assert str(caught.value).count(".") >= 1
    return caught.value.kind


@pytest.mark.parametrize("channels", [1, 3, None])
def test_lossless_images_come_back_as_they_were(channels: int | None) -> None:
    color, grey = noise(0), noise(1, channels=1)
    if channels == 1:
        expected = np.array(Image.fromarray(color).convert("L"))[..., None]
    else:
        expected = color
    np.testing.assert_array_equal(decode(encoded(color), channels=channels), expected)
    expected = np.repeat(grey, 3, axis=2) if channels == 3 else grey
    np.testing.assert_array_equal(decode(encoded(grey), channels=channels), expected)


def test_bad_files_are_named_by_what_is_wrong() -> None:
    whole = encoded(noise(0, (64, 64)), "JPEG")
    assert kind_of(b"") == "empty"
    assert kind_of(b"this is a text file\ncalled photo.jpg\n") == "not an image"
    assert kind_of(bytes(range(256))) == "not an image"
    assert kind_of(whole[: len(whole) // 2]) == "truncated"
    png = encoded(noise(0, (64, 64)))
    assert kind_of(png[: len(png) // 2]) in {"truncated", "damaged"}
    frames = [Image.fromarray(noise(seed, (64, 64))) for seed in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    for part in (0.05, 0.1, 0.3, 0.6, 0.9):
        with contextlib.suppress(BadImageError):  # the first frame, where it is whole; never another error
            assert decode(buffer.getvalue()[: int(part * buffer.tell())], channels=3).shape == (64, 64, 3)
    assert kind_of(buffer.getvalue()[:900]) in {"truncated", "damaged"}
    damaged = bytearray(png)
    damaged[len(png) // 2] ^= 0xFF
    assert kind_of(bytes(damaged)) in {"truncated", "damaged"}


@pytest.mark.parametrize("side", [9_000, 20_000])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    """The file holds no pixels at all: it would fail as truncated if anything were decoded."""
    if side == 20_000:
        head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + head
        bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(head)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    else:
        bomb = f"P6 {side} {side} 255\n".encode()
    assert side * side > MAX_PIXELS
    assert kind_of(bomb) == "too large"


def test_sixteen_bits_are_scaled_not_cut() -> None:
    values = np.array([[0, 256, 257, 32768, 65535]], dtype=np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    content = encoded(Image.fromarray(values))
    np.testing.assert_array_equal(decode(content, channels=None)[..., 0], expected)
    np.testing.assert_array_equal(to_uint8(values)[..., 0], expected)


def test_modes_become_grey_or_rgb() -> None:
    color = Image.fromarray(noise(2))
    cmyk = decode(encoded(color.convert("CMYK"), "TIFF"), channels=3)
    np.testing.assert_allclose(cmyk.astype(int), np.array(color).astype(int), atol=1)
    palette = color.quantize(256)
    np.testing.assert_array_equal(decode(encoded(palette), channels=None), np.array(palette.convert("RGB")))
    grey = Image.fromarray(noise(3, channels=1)[..., 0])
    assert decode(encoded(grey.convert("P"), "GIF"), channels=None).shape[2] == 1
    bits = grey.convert("1")
    np.testing.assert_array_equal(decode(encoded(bits), channels=1)[..., 0], np.array(bits) * np.uint8(255))
    floats = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert decode(encoded(floats, "TIFF"), channels=1).ravel().tolist() == [0, 128, 255]


def test_transparency_is_laid_over_white() -> None:
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[0, :, 3] = 255
    expected = [[0, 0], [255, 255]]
    assert decode(encoded(Image.fromarray(pixels)), channels=3)[..., 0].tolist() == expected
    assert decode(pixels, channels=3)[..., 2].tolist() == expected
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((0, 0), 0)
    content = encoded(palette, "PNG", transparency=0)
    assert decode(content, channels=3)[0].tolist() == [[255, 255, 255], [10, 20, 30]]


def test_the_first_frame_of_an_animation_is_used_and_told() -> None:
    frames = [Image.fromarray(noise(seed, channels=1)[..., 0]) for seed in (4, 5, 6)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    header, pixels = inspect_and_decode(buffer.getvalue(), channels=1)
    assert header.frames == 3
    np.testing.assert_array_equal(pixels[..., 0], np.array(frames[0]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_carried_out(orientation: int) -> None:
    pixels = noise(7, (12, 10))
    exif = Image.Exif()
    exif[0x0112] = orientation
    header, shown = inspect_and_decode(encoded(pixels, exif=exif), channels=3)
    flipped = {1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1]}
    transposed = pixels.transpose(1, 0, 2)
    flipped |= {5: transposed, 6: transposed[:, ::-1], 7: transposed[::-1, ::-1], 8: transposed[::-1]}
    np.testing.assert_array_equal(shown, flipped[orientation])
    assert (header.height, header.width) == shown.shape[:2]
    assert header.rotated == (orientation > 1)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.full((4, 4), 2.0),
        np.full((4, 4), np.nan),
        np.full((4, 4), -1),
        np.full((4, 4), 256),
        np.array([["a"]]),
    ],
)
def test_arrays_out_of_range_or_shape_are_refused(values: np.ndarray) -> None:
    with pytest.raises(BadImageError, match="unsupported"):
        to_uint8(values)


def test_arrays_in_range_are_scaled() -> None:
    assert to_uint8(np.array([[0.0, 0.5, 1.0]])).ravel().tolist() == [0, 128, 255]
    assert to_uint8(np.array([[True, False]])).ravel().tolist() == [255, 0]
    assert to_uint8(np.array([[3, 255]])).ravel().tolist() == [3, 255]


@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (7, 50), (24, 24)])
@pytest.mark.parametrize("size", [(24, 24), (16, 40)])
def test_the_affine_leads_from_source_to_result(how: str, shape: tuple[int, int], size: tuple[int, int]) -> None:
    """A ramp in x and one in y: the value at a pixel of the result is the place it came from."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.stack([x * 4, y * 4, x * 0 + 255], axis=-1).astype(np.uint8)
    pixels, affine = fit(image, size, how)
    assert pixels.shape == (3, *size)
    assert pixels.dtype == np.uint8
    assert affine.shape == (2, 3)
    inverse = np.linalg.inv(np.vstack([affine, [0, 0, 1]]))
    v, u = np.mgrid[: size[0], : size[1]]
    places = np.stack([u + 0.5, v + 0.5, np.ones_like(u)], axis=-1) @ inverse.T
    shown = pixels[2] == 255
    scale = max(1.0, *(1 / affine[[0, 1], [0, 1]]))
    inner = shown.copy()
    for axis, span in ((0, shape[1]), (1, shape[0])):
        inner &= (places[..., axis] > scale) & (places[..., axis] < span - scale)
    assert inner.any()
    for axis in (0, 1):
        found = pixels[axis][inner] / 4 + 0.5
        np.testing.assert_allclose(found, places[..., axis][inner], atol=0.35)
    if how == "pad":
        assert shown.any(axis=0).sum() == size[1] or shown.any(axis=1).sum() == size[0]
    else:
        assert shown.all()


def test_an_image_of_the_right_size_is_untouched() -> None:
    image = noise(8, (9, 11))
    for how in ("crop", "pad", "stretch"):
        pixels, affine = fit(image, (9, 11), how)
        np.testing.assert_array_equal(pixels, image.transpose(2, 0, 1))
        np.testing.assert_array_equal(affine, [[1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize("side", [49, 98, 103, 107, 196])
def test_a_side_that_fits_is_kept_whole_although_its_scale_is_rounded(side: int) -> None:
    """8 / (8 / 49) is more than 49: the part that is kept would begin before the image."""
    assert 8 / (8 / side) > side
    image = noise(1, (side + 11, side))
    tall, affine = fit(image, (8, 8), "crop")
    wide, turned = fit(image.transpose(1, 0, 2), (8, 8), "crop")
    assert affine[0].tolist() == turned[1, [1, 0, 2]].tolist() == pytest.approx([8 / side, 0, 0])
    np.testing.assert_allclose(tall, wide.transpose(0, 2, 1), atol=1)  # Pillow rounds after each of both directions
