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


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}])
def test_jpeg_is_read(options: dict[str, object]) -> None:
    image = decode(encoded(quarters(), "JPEG", quality=95, **options))
    seen = np.asarray(corners(image), int)
    assert np.abs(seen - [RED, GREEN, BLUE, WHITE]).max() <= 3


def test_cmyk_jpeg_becomes_rgb() -> None:
    image = decode(encoded(quarters("CMYK"), "JPEG", quality=95))
    assert np.abs(np.asarray(corners(image), int) - [RED, GREEN, BLUE, WHITE]).max() <= 12


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_grey_becomes_three_equal_channels(kind: str) -> None:
    image = decode(encoded(Image.new("L", (8, 8), 77), kind))
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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
def test_exif_of_other_formats_is_applied_too(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(quarters(), kind, exif=exif, quality=95)
    # Pillow itself turns a TIFF, and so old tools saw it turned
    as_stored = UPRIGHT_CORNERS[orientation if kind == "TIFF" else 1]
    for flag, expected in ((True, UPRIGHT_CORNERS[orientation]), (False, as_stored)):
        seen = np.asarray(corners(decode(data, exif=flag)), int)
        assert np.abs(seen - expected).max() <= 12


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


def png(values: np.ndarray, colour_type: int, bits: int = 8, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """A PNG written by hand from [H, W, channels]; `extra` goes before the pixels."""
    height, width = values.shape[:2]
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    stream = b""
    for left, top, across, down in passes:
        part = values[top::down, left::across].astype(">u2" if bits == 16 else np.uint8)
        stream += b"".join(b"\x00" + line.tobytes() for line in part if part.shape[1])
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced)
    pixels = png_chunk(b"IDAT", zlib.compress(stream))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + extra + pixels + png_chunk(b"IEND", b"")


# Left, top, step across and step down of the seven passes of the PNG standard.
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of_16_bit_grey(values: list[int], transparent: int | None = None) -> bytes:
    extra = b"" if transparent is None else png_chunk(b"tRNS", struct.pack(">H", transparent))
    return png(np.array(values)[None, :, None], GREY, bits=16, extra=extra)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (21, 34)])
@pytest.mark.parametrize(("colour_type", "channels", "bits"), [(GREY, 1, 8), (COLOUR, 3, 8), (COLOUR, 3, 16)])
def test_interlaced_png_is_read(size: tuple[int, int], colour_type: int, channels: int, bits: int) -> None:
    values = np.random.default_rng(1).integers(0, 2**bits, (*size, channels))
    seen = np.asarray(decode(png(values, colour_type, bits, interlaced=True)))
    assert np.array_equal(seen, np.broadcast_to(values >> (bits - 8), (*size, 3)))


def test_16_bit_colour_keeps_its_high_byte() -> None:
    values = np.array([[[0, 255, 256], [65535, 32768, 25700]]])
    assert np.asarray(decode(png(values, COLOUR, bits=16))).tolist() == [[[0, 0, 1], [255, 128, 100]]]


def test_16_bit_pixels_with_alpha_are_laid_over_white() -> None:
    colour = np.array([[[0, 0, 65535, 65535], [65535, 0, 0, 0], [0, 0, 0, 51 * 257]]])
    assert np.asarray(decode(png(colour, COLOUR_ALPHA, bits=16))).tolist() == [[[0, 0, 255], [255] * 3, [204] * 3]]
    grey = np.array([[[100 * 257, 65535], [0, 0]]])
    assert np.asarray(decode(png(grey, GREY_ALPHA, bits=16))).tolist() == [[[100] * 3, [255] * 3]]


def test_palettes_of_few_colours_are_read() -> None:
    palette = png_chunk(b"PLTE", bytes([10, 20, 30, 200, 100, 50]))
    transparent = png_chunk(b"tRNS", bytes([0]))
    values = np.array([[[0], [1]]])
    assert np.asarray(decode(png(values, PALETTE, extra=palette))).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    seen = decode(png(values, PALETTE, extra=palette + transparent))
    assert np.asarray(seen).tolist() == [[[255] * 3, [200, 100, 50]]]


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


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(BytesIO(data)).n_frames == 2
    assert decode(data).getpixel((1, 1)) == RED


def test_webp_with_alpha_is_laid_over_white() -> None:
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (8, 0, 16, 16))
    seen = decode(encoded(image, "WEBP", lossless=True))
    assert [seen.getpixel((x, 4)) for x in (2, 12)] == [WHITE, BLUE]


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"])
def test_compressed_tiff_is_read(compression: str) -> None:
    seen = np.asarray(corners(decode(encoded(quarters(), "TIFF", compression=compression))), int)
    assert np.abs(seen - [RED, GREEN, BLUE, WHITE]).max() <= 3


def test_cmyk_tiff_becomes_rgb() -> None:
    assert corners(decode(encoded(quarters("CMYK"), "TIFF"))) == [RED, GREEN, BLUE, WHITE]


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
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


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_bombs_of_other_formats_are_refused_by_their_size(kind: str) -> None:
    data = bytearray(encoded(Image.new("RGB", (16, 16), "red"), kind))
    if kind == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", 65_500, 65_500)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", 65_500, 65_500)
        at = data.index(b",")
        data[at + 5 : at + 9] = struct.pack("<HH", 65_500, 65_500)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", 65_500, 65_500)
    elif kind == "TIFF":
        for tag in (256, 257):
            at = data.index(struct.pack("<H", tag))
            data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, 65_500)
    else:
        at = data.index(b"\x9d\x01\x2a") + 3
        data[at : at + 4] = struct.pack("<HH", 16_383, 16_383)
    with pytest.raises(DataError, match=r"more than the 89478485 (pixels )?allowed|not an image"):
        decode(bytes(data))


def test_bombs_in_the_texts_of_a_png_are_refused_or_ignored() -> None:
    text = png_chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(b"a" * 20_000_000))
    data = png(np.zeros((2, 2, 3)), COLOUR, extra=text)
    assert len(data) < 1_000_000
    try:
        assert decode(data).size == (2, 2)
    except DataError as error:
        assert "too large" in str(error)


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
