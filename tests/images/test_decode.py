from __future__ import annotations

import random
import struct
import sys
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageFile

from git_caption.errors import DataError
from git_caption.images.decode import decode


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quarters(mode: str = "RGB") -> Image.Image:
    """Red, green over blue, white; each quarter 16 x 24, so that sides and corners can be told apart."""
    pixels = np.zeros((48, 32, 3), np.uint8)
    pixels[:24, :16] = 255, 0, 0
    pixels[:24, 16:] = 0, 255, 0
    pixels[24:, :16] = 0, 0, 255
    pixels[24:, 16:] = 255, 255, 255
    return Image.fromarray(pixels).convert(mode)


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    width, height = image.size
    return [image.getpixel(at) for at in ((2, 2), (width - 3, 2), (2, height - 3), (width - 3, height - 3))]


RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_lossless_formats_come_back_as_they_were(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = decode(encoded(quarters(), kind, **options))
    assert image.mode == "RGB"
    assert corners(image) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_jpeg_is_read(options: dict[str, bool]) -> None:
    image = decode(encoded(quarters(), "JPEG", quality=95, **options))
    seen = np.asarray(corners(image), int)
    assert np.abs(seen - [RED, GREEN, BLUE, WHITE]).max() <= 3


def test_cmyk_jpeg_becomes_rgb() -> None:
    image = decode(encoded(quarters("CMYK"), "JPEG", quality=95))
    assert np.abs(np.asarray(corners(image), int) - [RED, GREEN, BLUE, WHITE]).max() <= 12


def test_grey_becomes_three_equal_channels() -> None:
    image = decode(encoded(Image.new("L", (8, 8), 77), "PNG"))
    assert image.mode == "RGB"
    assert image.getpixel((3, 3)) == (77, 77, 77)


def test_one_bit_and_palette_images_become_rgb() -> None:
    assert decode(encoded(Image.new("1", (8, 8), 1), "PNG")).getpixel((0, 0)) == WHITE
    palette = quarters().quantize(4)
    assert palette.mode == "P"
    assert corners(decode(encoded(palette, "PNG"))) == [RED, GREEN, BLUE, WHITE]


# Where the stored picture's corners (red, green / blue, white) belong, by the EXIF standard's table of orientations.
UPRIGHT_CORNERS = {
    1: [RED, GREEN, BLUE, WHITE],
    2: [GREEN, RED, WHITE, BLUE],
    3: [WHITE, BLUE, GREEN, RED],
    4: [BLUE, WHITE, RED, GREEN],
    5: [RED, BLUE, GREEN, WHITE],
    6: [BLUE, RED, WHITE, GREEN],
    7: [WHITE, GREEN, BLUE, RED],
    8: [GREEN, WHITE, RED, BLUE],
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_unless_asked_not_to(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(quarters(), "PNG", exif=exif)
    upright = decode(data)
    assert corners(upright) == UPRIGHT_CORNERS[orientation]
    assert upright.size == ((32, 48) if orientation < 5 else (48, 32))
    assert corners(decode(data, exif=False)) == UPRIGHT_CORNERS[1]


@pytest.mark.parametrize("orientation", [0, 9, 4000])
def test_orientations_that_do_not_exist_are_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert corners(decode(encoded(quarters(), "PNG", exif=exif))) == UPRIGHT_CORNERS[1]


def test_damaged_exif_leaves_the_picture_as_stored() -> None:
    data = encoded(quarters(), "PNG", exif=b"Exif\x00\x00no tiff header at all")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert corners(decode(data)) == UPRIGHT_CORNERS[1]


def test_alpha_is_laid_over_white() -> None:
    image = Image.new("RGBA", (4, 1))
    for x, pixel in enumerate([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 51), (0, 0, 255, 153)]):
        image.putpixel((x, 0), pixel)
    seen = decode(encoded(image, "PNG"))
    assert [seen.getpixel((x, 0)) for x in range(4)] == [RED, WHITE, (204, 204, 204), (102, 102, 255)]


def test_grey_with_alpha_is_laid_over_white() -> None:
    image = Image.new("LA", (2, 1), (0, 0))
    image.putpixel((1, 0), (100, 255))
    seen = decode(encoded(image, "PNG"))
    assert [seen.getpixel((x, 0)) for x in range(2)] == [WHITE, (100, 100, 100)]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_entries_are_laid_over_white(kind: str) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    seen = decode(encoded(image, kind, transparency=0))
    assert [seen.getpixel((x, 0)) for x in range(2)] == [WHITE, (200, 100, 50)]


def test_a_transparent_colour_of_an_rgb_png_is_laid_over_white() -> None:
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (1, 2, 3))
    seen = decode(encoded(image, "PNG", transparency=(10, 20, 30)))
    assert [seen.getpixel((x, 0)) for x in range(2)] == [WHITE, (1, 2, 3)]


def png_of_16_bit_grey(values: list[int], transparent: int | None = None) -> bytes:
    """A PNG of one line written by hand: bit depth 16, colour type 0."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", len(values), 1, 16, 0, 0, 0, 0))]
    if transparent is not None:
        parts.append(chunk(b"tRNS", struct.pack(">H", transparent)))
    line = b"\x00" + struct.pack(f">{len(values)}H", *values)
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(line)), chunk(b"IEND", b"")])


def test_16_bit_grey_keeps_its_high_byte() -> None:
    seen = decode(png_of_16_bit_grey([0, 255, 256, 32768, 65535]))
    assert [seen.getpixel((x, 0)) for x in range(5)] == [(v, v, v) for v in (0, 0, 1, 128, 255)]


def test_16_bit_grey_with_a_transparent_value_is_laid_over_white() -> None:
    seen = decode(png_of_16_bit_grey([1000, 2000], transparent=1000))
    assert [seen.getpixel((x, 0)) for x in range(2)] == [WHITE, (7, 7, 7)]


def test_16_bit_tiff_is_scaled() -> None:
    data = encoded(Image.fromarray(np.array([[0, 25600]], np.uint16)), "TIFF")
    assert decode(data).getpixel((1, 0)) == (100, 100, 100)


def test_32_bit_grey_beyond_16_bits_is_refused() -> None:
    data = encoded(Image.fromarray(np.array([[-1, 70000]], np.int32)), "TIFF")
    with pytest.raises(DataError, match=r"from -1 to 70000, expected 0 to 65535"):
        decode(data)


def test_float_pixels_are_refused() -> None:
    data = encoded(Image.fromarray(np.array([[0.5, 2.0]], np.float32)), "TIFF")
    with pytest.raises(DataError, match="floats of no known range"):
        decode(data)


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data).getpixel((1, 1)) == RED


def test_zero_bytes_are_refused() -> None:
    with pytest.raises(DataError, match="zero bytes"):
        decode(b"")


def test_a_page_of_html_is_named_as_such() -> None:
    with pytest.raises(DataError, match=r"not an image: an HTML page of 44 bytes .*'<!DOCTYPE html>"):
        decode(b"<!DOCTYPE html><html><body>404</body></html>")


def test_an_svg_drawing_is_named_as_such() -> None:
    with pytest.raises(DataError, match="SVG drawing; expected JPEG"):
        decode(b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>')


def test_other_bytes_show_how_they_begin() -> None:
    with pytest.raises(DataError, match=r"not an image: 11 bytes beginning b'hello world', expected JPEG"):
        decode(b"hello world")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_truncated_images_are_refused(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    for part in (0.3, 0.6, 0.9):
        with pytest.raises(DataError, match=r"truncated|not an image"):
            decode(data[: int(len(data) * part)])


def test_decompression_bombs_are_refused_before_they_are_unpacked() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(DataError, match=r"more than the 89478485 pixels allowed"):
        decode(data)


def test_the_limit_of_pixels_is_exact() -> None:
    data = encoded(Image.new("L", (20, 10)), "PNG")
    assert decode(data, max_pixels=200).size == (20, 10)
    with pytest.raises(DataError, match="20 x 10 pixels, more than the 199 allowed"):
        decode(data, max_pixels=199)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.runs(1500)
def test_damaged_bytes_give_a_picture_or_a_data_error_and_nothing_else(kind: str, runs: int) -> None:
    source = random.Random(kind)
    data = encoded(quarters(), kind)
    refused = 0
    for _ in range(runs):
        damaged = bytearray(data)
        for _ in range(source.randint(1, 8)):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        try:
            assert decode(bytes(damaged), max_pixels=1_000_000).mode == "RGB"
        except DataError:
            refused += 1
    assert refused > 0


def test_real_photographs_are_read(photos) -> None:
    for path in sorted(photos.iterdir()):
        image = decode(path.read_bytes())
        assert image.mode == "RGB"
        assert min(image.size) > 100, path.name


def test_importing_the_room_brings_in_no_torch() -> None:
    import subprocess

    code = "import git_caption.images.decode, git_caption.images.transform, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
