import struct
import tracemalloc
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmo.model.config import FlowMoConfig, TransformerConfig, preset
from flowmo.model.container import Container
from flowmo.model.container_format import MAGIC, ContainerHeader
from flowmo.model.errors import (
    ContainerCorruptedError,
    ContainerError,
    ContainerMismatchError,
    ContainerTruncatedError,
    ContainerVersionError,
    NotAContainerError,
    PictureTooLargeError,
)
from flowmo.model.layout import PictureLayout
from flowmo.model.tokens import Tokens

FINGERPRINT = "00112233445566778899aabbccddeeff"
CONTAINER = Container(
    tokens=Tokens.from_ids([[1, 2], [7, 0]], group_bits=3),
    fingerprint=FINGERPRINT,
    width=256,
    height=256,
)
# Version 1, field by field; files of it exist, so these bytes never change.
GOLDEN = bytes.fromhex(
    "89464c4d0d0a1a0a"  # magic
    "0100"  # version
    "0600 0300 0000"  # D, G, reserved
    "02000000"  # K
    "00010000 00010000"  # width, height
    "02000000"  # payload length
    "00112233445566778899aabbccddeeff"
    "4905"  # payload, as in test_tokens
    "6bb8d017"  # CRC-32
)
HEADER = "<8sHHHHIIII16s"
CONFIG = FlowMoConfig(
    name="made-up",
    image_size=256,
    patch_size=8,
    encoder=TransformerConfig(width=32, depth=1, heads=2),
    decoder=TransformerConfig(width=32, depth=1, heads=2),
    code_length=2,
    token_bits=6,
    group_bits=3,
)


def sealed(body: bytes) -> bytes:
    """With the CRC-32 that belongs to it."""
    return body + struct.pack("<I", zlib.crc32(body))


def with_header(**changes: Any) -> bytes:
    """GOLDEN with other header fields and a right CRC-32: damage that only reading can find."""
    names = ("magic", "version", "d", "g", "reserved", "k", "width", "height", "length", "model")
    fields = dict(zip(names, struct.unpack_from(HEADER, GOLDEN), strict=True))
    assert changes.keys() <= fields.keys()
    return sealed(struct.pack(HEADER, *(fields | changes).values()) + GOLDEN[48:-4])


# Version 2: an image of 6 x 3 pixels in three tiles of 3 x 3 that overlap by 1.
PICTURE = Container(
    tokens=Tokens.from_ids([[[1, 2], [7, 0]], [[0, 5], [6, 7]], [[1, 1], [2, 2]]], group_bits=3),
    fingerprint=FINGERPRINT,
    width=6,
    height=3,
    tile_size=3,
    overlap=1,
)
PICTURE_GOLDEN = bytes.fromhex(
    "89464c4d0d0a1a0a"  # magic
    "0200"  # version
    "0600 0300 00 00"  # D, G, fit, reserved
    "02000000"  # K
    "06000000 03000000"  # W, H
    "03000000 01000000"  # S, overlap
    "03000000 02000000"  # T, payload length of a tile
    "00000000"  # reserved
    "00112233445566778899aabbccddeeff"
    "4905 a20f 0303"  # payloads of the three tiles
    "cc5e3291"  # CRC-32
)


def test_version_1_is_these_bytes() -> None:
    assert CONTAINER.to_bytes() == GOLDEN
    assert Container.from_bytes(GOLDEN) == CONTAINER
    assert len(GOLDEN) == Container.overhead + 2
    assert with_header() == GOLDEN


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_read(kind: Any) -> None:
    assert Container.from_bytes(kind(GOLDEN)) == CONTAINER


@pytest.mark.parametrize(("name", "size"), [("lo", 576 + 52), ("hi", 1792 + 52)])
def test_published_shapes_come_back(name: str, size: int) -> None:
    config = preset(name)
    shape = (config.code_length, config.ids_per_token)
    ids = np.random.default_rng(0).integers(0, 2**config.group_bits, shape, np.int32)
    tokens = Tokens(ids=ids, group_bits=config.group_bits)
    container = Container(tokens=tokens, fingerprint=FINGERPRINT, width=256, height=256)
    data = container.to_bytes()
    assert len(data) == size
    assert Container.from_bytes(data) == container


# What arrived instead, and what the reader is told


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no bytes came"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "begins with 89 50 4e 47"),
        (b"{}", "not a .flowmo container"),
        (GOLDEN.replace(b"\r\n", b"\n"), "transfer it as binary"),
        (GOLDEN.replace(b"\n", b"\r\n"), "transfer it as binary"),
        (GOLDEN.replace(b"\x89", b"\x09"), "transfer it as binary"),
    ],
)
def test_something_else(data: bytes, message: str) -> None:
    with pytest.raises(NotAContainerError, match=message):
        Container.from_bytes(data)


@pytest.mark.parametrize("version", [0, 3, 65535])
def test_another_version_is_named_whatever_follows(version: int) -> None:
    data = MAGIC + struct.pack("<H", version) + b"of a layout that nobody knows yet"
    with pytest.raises(
        ContainerVersionError, match=f"version {version}, this .* reads versions 1 and 2"
    ):
        Container.from_bytes(data)


@pytest.mark.parametrize("length", range(1, len(GOLDEN)))
def test_every_truncation_says_how_much_came(length: int) -> None:
    expected = len(GOLDEN) if length >= Container.overhead else f"at least {Container.overhead}"
    message = f"{length} bytes came, {expected} were expected"
    with pytest.raises(ContainerTruncatedError, match=message):
        Container.from_bytes(GOLDEN[:length])


PICTURE_HEADER = "<8sHHHBBIIIIIIII16s"
PICTURE_NAMES = [
    "magic",
    "version",
    "d",
    "g",
    "fit",
    "reserved",
    "k",
    "width",
    "height",
    "tile",
    "overlap",
    "tiles",
    "length",
    "reserved2",
    "model",
]


def with_picture_header(**changes: Any) -> bytes:
    """PICTURE_GOLDEN with other header fields and a right CRC-32."""
    values = struct.unpack_from(PICTURE_HEADER, PICTURE_GOLDEN)
    fields = dict(zip(PICTURE_NAMES, values, strict=True))
    assert changes.keys() <= fields.keys()
    packed = struct.pack(PICTURE_HEADER, *(fields | changes).values())
    return sealed(packed + PICTURE_GOLDEN[64:-4])


def test_version_2_is_these_bytes() -> None:
    assert PICTURE.to_bytes() == PICTURE_GOLDEN == with_picture_header()
    again = Container.from_bytes(PICTURE_GOLDEN)
    assert again == PICTURE
    assert again.tokens.ids.shape == (3, 2, 2)
    assert (again.width, again.height, again.tile_size, again.overlap, again.fit) == (
        6,
        3,
        3,
        1,
        "native",
    )
    assert len(PICTURE_GOLDEN) == Container.picture_overhead + 3 * 2


def test_a_region_needs_the_header_and_the_bytes_of_its_tiles() -> None:
    header = ContainerHeader.read(PICTURE_GOLDEN[:64] + bytes(4))
    assert (header.size, header.tile_bytes, header.total) == (64, 2, len(PICTURE_GOLDEN))
    last = PICTURE_GOLDEN[64 + 2 * 2 :][:2]
    tile = Tokens.unpack(last, code_length=2, token_bits=6, group_bits=3)
    assert tile == PICTURE.tokens.tile(2)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_square_that_was_made_of_a_picture_remembers_its_size(fit: str) -> None:
    made = replace(CONTAINER, width=4000, height=3000, tile_size=256, fit=fit)
    again = Container.from_bytes(made.to_bytes())
    assert again == made
    assert (again.width, again.height, again.fit) == (4000, 3000, fit)
    assert again.layout.output == ((256, 256) if fit == "crop" else (4000, 3000))
    assert len(made.to_bytes()) == Container.picture_overhead + 2


def test_a_square_of_the_models_size_is_written_as_version_1_whatever_the_fit() -> None:
    for fit in ("native", "crop", "pad", "stretch"):
        made = replace(CONTAINER, tile_size=256, overlap=32, fit=fit)
        assert made == CONTAINER
        assert made.to_bytes() == GOLDEN


def test_version_1_of_a_flat_image_is_still_read() -> None:
    container = Container.from_bytes(with_header(height=128))
    assert (container.width, container.height, container.tile_size) == (256, 128, 256)
    assert container.tokens == CONTAINER.tokens


@pytest.mark.parametrize("length", range(10, len(PICTURE_GOLDEN)))
def test_every_truncation_of_version_2_says_how_much_came(length: int) -> None:
    least = Container.picture_overhead
    expected = len(PICTURE_GOLDEN) if length >= least else f"at least {least}"
    with pytest.raises(ContainerTruncatedError, match=f"{length} bytes came, {expected} were"):
        Container.from_bytes(PICTURE_GOLDEN[:length])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "0 tokens"),
        ({"tiles": 2}, "2 tiles, where 6 x 3 pixels in tiles of 3 that overlap by 1 take 3"),
        ({"tiles": 2**32 - 1}, "4294967295 tiles"),
        ({"tile": 0}, "tile_size must be .* got 0"),
        ({"tile": 2**32 - 1}, "tile_size must be"),
        ({"overlap": 2}, "overlap by 0 to 1 pixels, got 2"),
        ({"width": 0}, "width must be"),
        ({"height": 2**32 - 1}, "height must be"),
        ({"fit": 4}, "fit 4"),
        ({"fit": 1}, "3 tiles, where"),
        ({"fit": 1, "tiles": 1}, "an overlap of 1 pixels, where there is one tile"),
        ({"width": 3, "tiles": 1, "overlap": 0}, "written as version 1"),
        ({"length": 3}, "payload of 3 bytes"),
        ({"reserved": 1}, "reserved field is 1, not 0"),
        ({"reserved2": 7}, "reserved field is 7, not 0"),
    ],
)
def test_headers_of_version_2_that_cannot_be(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ContainerCorruptedError, match=message):
        Container.from_bytes(with_picture_header(**changes))


def test_limits_are_checked_before_anything_else_is_read() -> None:
    side = {"width": 65_535, "height": 65_535, "tile": 1, "overlap": 0, "tiles": 65_535**2}
    hostile = with_picture_header(**side)
    tracemalloc.start()
    try:
        with pytest.raises(PictureTooLargeError, match="at most 1,000,000 are accepted"):
            Container.from_bytes(hostile, max_pixels=1_000_000)
        with pytest.raises(PictureTooLargeError, match="4,294,836,225 tiles .* at most 10 are"):
            Container.from_bytes(hostile, max_tiles=10)
        with pytest.raises(ContainerTruncatedError):
            Container.from_bytes(hostile)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6_000_000  # the places of 65,535 columns and rows
    assert Container.from_bytes(PICTURE_GOLDEN, max_pixels=18, max_tiles=3) == PICTURE
    with pytest.raises(PictureTooLargeError, match="6 x 3 = 18 pixels, at most 17"):
        Container.from_bytes(PICTURE_GOLDEN, max_pixels=17)


def test_as_many_tokens_as_tiles() -> None:
    with pytest.raises(ContainerError, match="tokens of 3 tiles came, .* takes 4"):
        replace(PICTURE, width=8)


@given(st.integers(0, len(PICTURE_GOLDEN) - 1), st.integers(1, 255))
def test_no_changed_byte_of_version_2_passes(position: int, change: int) -> None:
    data = bytearray(PICTURE_GOLDEN)
    data[position] ^= change
    with pytest.raises(ContainerError):
        Container.from_bytes(data)


@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    tile=st.integers(1, 12),
    data=st.data(),
    fit=st.sampled_from(["native", "crop", "pad", "stretch"]),
)
def test_any_picture_comes_back(
    width: int, height: int, tile: int, data: st.DataObject, fit: str
) -> None:
    overlap = data.draw(st.integers(0, tile // 2))
    layout = PictureLayout(width=width, height=height, tile_size=tile, overlap=overlap, fit=fit)
    ids = np.random.default_rng(0).integers(0, 8, (layout.tiles, 2, 2), np.int32)
    made = Container(
        tokens=Tokens(ids=ids, group_bits=3),
        fingerprint=FINGERPRINT,
        width=width,
        height=height,
        tile_size=tile,
        overlap=overlap,
        fit=fit,
    )
    written = made.to_bytes()
    again = Container.from_bytes(written)
    assert again == made
    assert again.to_bytes() == written
    assert again.layout == layout


@given(st.binary(min_size=54, max_size=90))
def test_no_header_of_version_2_crashes_the_reader(body: bytes) -> None:
    with pytest.raises(ContainerError):
        Container.from_bytes(sealed(MAGIC + b"\x02\x00" + body))


def test_bytes_after_the_end_are_no_part_of_it() -> None:
    with pytest.raises(ContainerCorruptedError, match="3 bytes follow .* 54 bytes long, 57 came"):
        Container.from_bytes(GOLDEN + b"abc")


@pytest.mark.parametrize("position", [32, 48, 50, len(GOLDEN) - 1])
def test_a_flipped_bit_is_found_by_the_checksum(position: int) -> None:
    data = bytearray(GOLDEN)
    data[position] ^= 1
    with pytest.raises(ContainerCorruptedError, match="CRC-32"):
        Container.from_bytes(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "0 tokens"),
        ({"k": 2**32 - 1, "length": 2**32 - 1}, "4294967295 tokens"),
        ({"k": 3}, "payload of 2 bytes, where 3 tokens of 6 bits take 3"),
        ({"d": 0}, "tokens of 0 bits"),
        ({"g": 0}, "ids of 0 bits"),
        ({"g": 4}, "ids of 4 bits for tokens of 6"),
        ({"d": 50, "g": 25}, "ids of 25 bits"),
        ({"length": 3}, "payload of 3 bytes"),
        ({"width": 0}, "width must be .* got 0"),
        ({"height": 2**32 - 1}, "height must be .* got 4294967295"),
        ({"reserved": 1}, "reserved field is 1, not 0"),
    ],
)
def test_headers_that_cannot_be(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ContainerCorruptedError, match=message):
        Container.from_bytes(with_header(**changes))


def test_padding_bits_carry_nothing() -> None:
    data = sealed(GOLDEN[:48] + b"\x49\x15")
    with pytest.raises(ContainerCorruptedError, match="padding"):
        Container.from_bytes(data)


def test_a_hostile_header_allocates_nothing() -> None:
    data = with_header(k=2**20, d=65528, g=8, length=2**20 * 65528 // 8 % 2**32)
    tracemalloc.start()
    try:
        with pytest.raises(ContainerError):
            Container.from_bytes(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


# Whatever arrives


@given(st.integers(0, len(GOLDEN) - 1), st.integers(1, 255))
def test_no_changed_byte_passes(position: int, change: int) -> None:
    data = bytearray(GOLDEN)
    data[position] ^= change
    with pytest.raises(ContainerError):
        Container.from_bytes(data)


@given(
    st.integers(0, len(GOLDEN)), st.integers(0, len(GOLDEN)), st.binary(max_size=len(GOLDEN) + 8)
)
def test_no_replaced_part_passes(start: int, stop: int, part: bytes) -> None:
    data = GOLDEN[:start] + part + GOLDEN[stop:]
    if data == GOLDEN:
        return
    with pytest.raises(ContainerError):
        Container.from_bytes(data)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_refused_politely(data: bytes, has_magic: bool) -> None:
    with pytest.raises(ContainerError):
        Container.from_bytes(MAGIC + data if has_magic else data)


@given(
    d=st.integers(0, 40),
    g=st.integers(0, 30),
    k=st.integers(0, 40),
    width=st.integers(0, 70_000),
    payload=st.binary(max_size=40),
    length=st.integers(0, 40) | st.none(),
)
def test_what_is_accepted_is_what_would_be_written(
    d: int, g: int, k: int, width: int, payload: bytes, length: int | None
) -> None:
    # There is one spelling of every container, so nothing can hide in one.
    size = len(payload) if length is None else length
    body = struct.pack(HEADER, MAGIC, 1, d, g, 0, k, width, 1, size, bytes(16)) + payload
    try:
        container = Container.from_bytes(sealed(body))
    except ContainerError:
        return
    assert container.to_bytes() == sealed(body)


# Which model


def test_the_model_that_made_it_is_accepted() -> None:
    CONTAINER.check_model(FINGERPRINT, CONFIG)


def test_another_model_is_named_beside_the_one_that_made_it() -> None:
    other = "f" * 32
    with pytest.raises(ContainerMismatchError, match=f"{FINGERPRINT}.*{other}.*'made-up'"):
        CONTAINER.check_model(other, CONFIG)


def test_tokens_that_contradict_their_fingerprint_are_a_mismatch() -> None:
    config = replace(CONFIG, code_length=3)
    with pytest.raises(ContainerMismatchError, match=r"\(2, 6, 3\).*\(3, 6, 3\)"):
        CONTAINER.check_model(FINGERPRINT, config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "12"}, "32 lower-case hex digits, got '12'"),
        ({"fingerprint": FINGERPRINT.upper()}, "lower-case"),
        ({"width": 0}, "width must be .* 1 to 65535, got 0"),
        ({"height": 65536}, "height"),
        ({"height": True}, "height"),
        ({"width": 1.5}, "width"),
        (
            {"tokens": Tokens(ids=np.zeros((1, 2731), np.int32), group_bits=24)},
            "do not fit in a container: tokens of 65544 bits",
        ),
    ],
)
def test_impossible_containers_are_not_made(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ContainerError, match=message):
        replace(CONTAINER, **changes)
