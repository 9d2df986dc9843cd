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
from flowmo.model.container import MAGIC, Container
from flowmo.model.errors import (
    ContainerCorruptedError,
    ContainerError,
    ContainerMismatchError,
    ContainerTruncatedError,
    ContainerVersionError,
    NotAContainerError,
)
from flowmo.model.tokens import Tokens

FINGERPRINT = "00112233445566778899aabbccddeeff"
CONTAINER = Container(
    tokens=Tokens.from_ids([[1, 2], [7, 0]], group_bits=3),
    fingerprint=FINGERPRINT,
    width=256,
    height=128,
)
# Version 1, field by field; files of it exist, so these bytes never change.
GOLDEN = bytes.fromhex(
    "89464c4d0d0a1a0a"  # magic
    "0100"  # version
    "0600 0300 0000"  # D, G, reserved
    "02000000"  # K
    "00010000 80000000"  # width, height
    "02000000"  # payload length
    "00112233445566778899aabbccddeeff"
    "4905"  # payload, as in test_tokens
    "62e09ee0"  # CRC-32
)
HEADER = "<8sHHHHIIII16s"
CONFIG = FlowMoConfig(
    name="made-up",
    image_size=16,
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


@pytest.mark.parametrize("version", [0, 2, 65535])
def test_another_version_is_named_whatever_follows(version: int) -> None:
    data = MAGIC + struct.pack("<H", version) + b"of a layout that nobody knows yet"
    with pytest.raises(ContainerVersionError, match=f"version {version}, this .* reads version 1"):
        Container.from_bytes(data)


@pytest.mark.parametrize("length", range(1, len(GOLDEN)))
def test_every_truncation_says_how_much_came(length: int) -> None:
    expected = len(GOLDEN) if length >= Container.overhead else f"at least {Container.overhead}"
    message = f"{length} bytes came, {expected} were expected"
    with pytest.raises(ContainerTruncatedError, match=message):
        Container.from_bytes(GOLDEN[:length])


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
        ({"width": 0}, "image of 0 x 128"),
        ({"height": 2**32 - 1}, "4294967295 pixels"),
        ({"reserved": 1}, "reserved field is 1"),
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
