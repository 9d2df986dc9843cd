import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from benchmarks.display_p3 import display_p3
from flowmo.imaging.jpeg import count_scans
from flowmo.imaging.reading import (
    CorruptImageError,
    ImageTooLargeError,
    UnsupportedImageError,
    from_picture,
    read_image,
    read_with_alpha,
)
from tests.service.pictures import as_file, gradient

PICTURE = gradient(48, 40)


@pytest.mark.parametrize(
    ("format", "tolerance"),
    [
        ("PNG", 0),
        ("BMP", 0),
        ("TIFF", 0),
        ("JPEG", 12),
        ("WEBP", 16),
        ("AVIF", 16),
        ("GIF", 40),
    ],
)
def test_every_accepted_format_gives_its_pixels(format: str, tolerance: int) -> None:
    image = read_image(as_file(PICTURE, format))
    assert image.format == format
    assert (image.width, image.height) == (48, 40)
    assert image.pixels.shape == (40, 48, 3)
    assert image.pixels.dtype == np.uint8
    assert np.abs(image.pixels.astype(int) - PICTURE).max() <= tolerance
    assert not image.animated


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    # Written so that a correct reader sees PICTURE again.
    stored = {
        1: PICTURE,
        2: PICTURE[:, ::-1],
        3: PICTURE[::-1, ::-1],
        4: PICTURE[::-1],
        5: PICTURE.transpose(1, 0, 2),
        6: np.rot90(PICTURE, 1),
        7: PICTURE[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(PICTURE, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(as_file(np.ascontiguousarray(stored), format, exif=exif, quality=95))
    assert (image.width, image.height) == (48, 40)
    assert np.abs(image.pixels.astype(int) - PICTURE).mean() < 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_photograph() -> None:
    data = as_file(PICTURE, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff" + b"\xff" * 40)
    assert read_image(data).pixels.shape == (40, 48, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(mode: str) -> None:
    layer = Image.new("RGBA", (4, 4), (0, 0, 0, 255))
    layer.paste((200, 0, 0, 0), (0, 0, 2, 4))
    data = as_file(layer.convert(mode))
    pixels = read_image(data).pixels
    assert (pixels[:, :2] == 255).all()
    assert (pixels[:, 2:] == 0).all()


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    layer = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    (value,) = np.unique(read_image(as_file(layer)).pixels.reshape(-1, 3), axis=0)
    assert value[0] == 255
    assert abs(int(value[1]) - 127) <= 1


def test_sixteen_bit_greyscale_is_rescaled_not_clipped() -> None:
    wide = np.array([[0, 128, 257, 32768, 65407, 65535]], np.uint16)
    pixels = read_image(as_file(wide)).pixels
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 128, 255, 255]
    assert (pixels == pixels[..., :1]).all()


def test_sixteen_bit_rgb_keeps_its_high_byte() -> None:
    # Pillow cannot write this form, so the file is put together by hand.
    rows = b"\x00" + struct.pack(">6H", 0x0000, 0x8012, 0xFFFF, 0x1234, 0x00FF, 0xFF00)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    expected = np.array([[[0, 128, 255], [18, 0, 255]]])
    assert np.abs(read_image(data).pixels.astype(int) - expected).max() <= 1


def test_cmyk_is_converted() -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = read_image(as_file(ink, "JPEG", quality=95)).pixels.astype(int)
    assert np.abs(pixels - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_other_modes_become_rgb(mode: str) -> None:
    source = Image.fromarray(PICTURE).convert(mode)
    pixels = read_image(as_file(source)).pixels
    assert np.array_equal(pixels, np.asarray(source.convert("RGB")))


def test_a_colour_profile_is_honoured() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # A profile like sRGB in which red and green have changed places.
    swapped = srgb.replace(b"rXYZ", b"tmp!").replace(b"gXYZ", b"rXYZ").replace(b"tmp!", b"gXYZ")
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "none".encode("utf-16-be"))
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert read_image(as_file(red, icc_profile=srgb)).pixels[0, 0].tolist() == [255, 0, 0]
    r, g, b = read_image(as_file(red, icc_profile=swapped)).pixels[0, 0].tolist()
    assert g > 240
    assert r < 16
    assert b < 16


def test_a_broken_colour_profile_is_ignored() -> None:
    data = as_file(PICTURE, icc_profile=b"no profile at all" * 20)
    assert np.array_equal(read_image(data).pixels, PICTURE)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_animations_give_their_first_frame_and_say_so(format: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    data = as_file(frames[0], format, save_all=True, append_images=frames[1:], duration=100)
    image = read_image(data)
    assert image.animated
    assert np.abs(image.pixels.astype(int) - [255, 0, 0]).max() < 8


def test_the_first_picture_of_a_phone_jpeg_is_the_photograph() -> None:
    first, second = Image.fromarray(PICTURE), Image.new("RGB", (24, 20))
    data = as_file(first, "MPO", save_all=True, append_images=[second])
    image = read_image(data)
    assert (image.format, image.animated) == ("JPEG", False)
    assert np.abs(image.pixels.astype(int) - PICTURE).mean() < 4


def test_a_large_jpeg_is_decoded_at_a_reduced_scale() -> None:
    data = as_file(gradient(1000, 700), "JPEG", quality=95)
    image = read_image(data, side=32)
    assert (image.width, image.height) == (1000, 700)
    assert 64 <= min(image.pixels.shape[:2]) < 256
    assert read_image(data).pixels.shape == (700, 1000, 3)


def test_a_reduced_and_turned_jpeg_reports_its_upright_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = as_file(np.ascontiguousarray(np.rot90(gradient(1000, 700))), "JPEG", exif=exif)
    image = read_image(data, side=32)
    assert (image.width, image.height) == (1000, 700)
    height, width, _ = image.pixels.shape
    assert width > height


@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_of_many_scans_are_refused(progressive: bool) -> None:
    data = as_file(PICTURE, "JPEG", progressive=progressive, exif=b"Exif\x00\x00\xff\xda\xff\xda")
    scans = count_scans(data)
    assert scans == (10 if progressive else 1)
    start = data.rindex(b"\xff\xda")
    bomb = data[:start] + data[start:-2] * 100 + b"\xff\xd9"
    assert count_scans(bomb) == scans + 99
    with pytest.raises(CorruptImageError, match="scans"):
        read_image(bomb)


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0", b"\xff" * 99])
def test_counting_scans_ends_on_any_bytes(data: bytes) -> None:
    assert count_scans(data) == 0


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF"])
def test_truncated_files_are_corrupt(format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = as_file(noise, format)
    with pytest.raises(CorruptImageError):
        read_image(data[: len(data) * 2 // 3])
    with pytest.raises((CorruptImageError, UnsupportedImageError)):
        read_image(data[:20])


def test_an_empty_file_is_corrupt() -> None:
    with pytest.raises(CorruptImageError, match="empty"):
        read_image(b"")


def test_the_pixel_cap_is_checked_before_decoding() -> None:
    data = as_file(Image.new("1", (2000, 1001)))
    assert len(data) < 2000
    with pytest.raises(ImageTooLargeError, match="2000 x 1001"):
        read_image(data, max_pixels=2_000_000)
    assert read_image(data, max_pixels=2_002_000).pixels.shape == (1001, 2000, 3)


COMPRESSIONS = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd")


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "P", "1"])
def test_compressed_tiffs_are_read(mode: str, compression: str) -> None:
    if compression == "jpeg" and mode in {"RGBA", "P", "1"}:
        return  # there is no such file
    source = Image.fromarray(PICTURE).convert(mode)
    pixels = read_image(as_file(source, "TIFF", compression=compression)).pixels.astype(int)
    tolerance = 24 if compression == "jpeg" else 1
    assert np.abs(pixels - np.asarray(source.convert("RGB"))).max() <= tolerance


@pytest.mark.parametrize("orientation", [6, 8])
def test_a_compressed_tiff_is_turned_once(orientation: int) -> None:
    stored = np.ascontiguousarray(np.rot90(PICTURE, 1 if orientation == 6 else -1))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(as_file(stored, "TIFF", compression="tiff_lzw", exif=exif))
    assert (image.width, image.height) == (48, 40)
    assert np.array_equal(image.pixels, PICTURE)


def test_sixteen_bit_tiffs_are_rescaled() -> None:
    wide = np.array([[0, 257, 32768, 65535]], np.uint16)
    for compression in (None, "tiff_lzw"):
        pixels = read_image(as_file(wide, "TIFF", compression=compression)).pixels
        assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_values_without_a_known_range_are_refused(mode: str) -> None:
    data = as_file(Image.new(mode, (8, 8)), "TIFF")
    with pytest.raises(UnsupportedImageError, match=f"mode {mode}.*8 or 16 bits"):
        read_image(data)
    with pytest.raises(UnsupportedImageError, match=f"mode {mode}"):
        from_picture(Image.new(mode, (8, 8)))


def test_tiles_larger_than_the_limit_are_refused_before_they_are_decoded() -> None:
    # One tile of a thousand times the picture's size, which libtiff would fill.
    entries = [
        (256, 3, 8), (257, 3, 8), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1),
        (322, 4, 40_000), (323, 4, 40_000), (324, 4, 200), (325, 4, 20),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", value) for tag, kind, value in entries
    )
    head = b"II*\x00" + struct.pack("<I", 8) + directory + struct.pack("<I", 0)
    data = head.ljust(200, b"\0") + zlib.compress(b"\0" * 64).ljust(20, b"\0")
    with pytest.raises(ImageTooLargeError, match="40000 x 40000"):
        read_image(data)


def test_a_picture_in_memory_is_read_by_the_same_rules() -> None:
    layer = Image.new("RGBA", (4, 6), (0, 0, 0, 0))
    layer.getexif()[0x0112] = 6
    image = from_picture(layer)
    assert (image.width, image.height, image.format, image.animated) == (6, 4, "", False)
    assert (image.pixels == 255).all()
    assert layer.mode == "RGBA"
    assert layer.size == (4, 6)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_transparency_can_be_kept(format: str) -> None:
    layer = Image.fromarray(PICTURE)
    alpha = np.linspace(0, 255, PICTURE[..., 0].size).reshape(PICTURE.shape[:2]).astype(np.uint8)
    layer.putalpha(Image.fromarray(alpha))
    picture = read_with_alpha(as_file(layer, format, lossless=True, exact=True))
    assert picture.mode == "RGBA"
    assert np.array_equal(np.asarray(picture), np.asarray(layer))
    opaque = as_file(PICTURE, format, lossless=True)
    assert np.array_equal(np.asarray(read_with_alpha(opaque)), PICTURE)


def test_colours_are_converted_where_transparency_is_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    layer = Image.new("RGBA", (4, 6), (200, 40, 40, 255))
    layer.paste((200, 40, 40, 0), (0, 0, 4, 3))
    kept = read_with_alpha(as_file(layer, icc_profile=display_p3(), exif=exif))
    whole = read_image(as_file(layer.convert("RGB"), icc_profile=display_p3(), exif=exif))
    assert kept.size == (6, 4)
    assert np.array_equal(np.asarray(kept)[..., :3], whole.pixels)
    assert np.asarray(kept)[0, :, 3].tolist() == [255, 255, 255, 0, 0, 0]


def test_a_wide_gamut_is_brought_to_srgb() -> None:
    colour = Image.new("RGB", (4, 4), (200, 40, 40))
    r, g, b = read_image(as_file(colour, icc_profile=display_p3())).pixels[0, 0].tolist()
    assert (r, g, b) == pytest.approx((219, 8, 27), abs=12)  # outside sRGB it would be clipped
    assert r > 205
    assert g < 30


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_decompression_bombs_are_too_large(side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    data = (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )
    data += struct.pack(">I", 4) + b"IDAT"
    with pytest.raises(ImageTooLargeError):
        read_image(data + zlib.compress(b"\x00" * 1000))


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (as_file(PICTURE, "JPEG2000"), "JPEG 2000"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "HEIC"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (as_file(PICTURE, "PPM"), "no image"),
        (b"hello, this is text", "no image"),
    ],
)
def test_other_formats_are_named_and_refused(data: bytes, named: str) -> None:
    with pytest.raises(UnsupportedImageError, match=named) as caught:
        read_image(data)
    assert "convert it to JPEG" in str(caught.value)


def test_errors_do_not_echo_the_upload() -> None:
    secret = b"my-secret-words"
    for data in (secret, as_file(PICTURE)[:60] + secret * 9, b"\xff\xd8\xff" + secret * 9):
        with pytest.raises((CorruptImageError, UnsupportedImageError)) as caught:
            read_image(data)
        assert "secret" not in str(caught.value)


def test_results_carry_no_metadata_of_the_upload() -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    pixels = read_image(as_file(PICTURE, "JPEG", exif=exif)).pixels
    assert not Image.open(io.BytesIO(as_file(pixels))).getexif()
