import hashlib
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowmo.model.config import preset
from flowmo.model.errors import TokenError
from flowmo.model.quantizer import codes_to_ids, ids_to_signs, signs
from flowmo.model.tokens import Tokens

# K = 2, D = 6, G = 3, so two ids a token and element i = 2 g + h.
# Token 0: id 1 has bit 0, element 0; id 2 has bit 1, element 2 * 1 + 1 = 3.
# Token 1: id 7 has bits 0, 1, 2, elements 0, 2, 4; id 0 has none.
IDS = [[1, 2], [7, 0]]
SIGNS = [[1, -1, -1, 1, -1, -1], [1, -1, 1, -1, 1, -1]]
# Stream bits 0, 3, 6 in byte 0 (1 + 8 + 64); 8 and 10 in byte 1 (1 + 4).
PAYLOAD = bytes([0x49, 0x05])


@st.composite
def some_tokens(draw: st.DrawFn) -> Tokens:
    group_bits = draw(st.integers(1, 24))
    tiles = draw(st.sampled_from([(), (1,), (3,)]))
    shape = (*tiles, draw(st.integers(1, 6)), draw(st.integers(1, 4)))
    elements = st.integers(0, 2**group_bits - 1)
    ids = draw(hnp.arrays(np.int32, shape, elements=elements))
    return Tokens(ids=ids, group_bits=group_bits)


def test_ids_signs_and_payload_of_a_case_done_by_hand() -> None:
    tokens = Tokens.from_ids(IDS, group_bits=3)
    assert tokens.pack() == PAYLOAD
    assert tokens.signs().tolist() == SIGNS
    assert tokens.signs().dtype == np.float32
    assert Tokens.from_signs(np.array(SIGNS), group_bits=3) == tokens
    assert Tokens.unpack(PAYLOAD, code_length=2, token_bits=6, group_bits=3) == tokens
    sizes = (tokens.code_length, tokens.ids_per_token, tokens.token_bits)
    assert sizes == (2, 2, 6)
    assert (tokens.payload_bits, tokens.payload_bytes) == (12, 2)


@pytest.mark.parametrize(
    ("name", "size", "digest"),
    [
        ("lo", 576, "3aede81c233eb6f2"),
        ("hi", 1792, "4298fdedf5615bcb"),
    ],
)
def test_payloads_of_the_published_shapes_never_change(name: str, size: int, digest: str) -> None:
    config = preset(name)
    shape = (config.code_length, config.ids_per_token)
    ids = (np.arange(np.prod(shape)).reshape(shape) * 7919) % 2**config.group_bits
    payload = Tokens(ids=ids, group_bits=config.group_bits).pack()
    assert len(payload) == size == config.payload_bytes
    assert hashlib.sha256(payload).hexdigest()[:16] == digest
    # The definition, a bit at a time.
    stream = int.from_bytes(payload, "little")
    for k in range(config.code_length):
        for i in range(config.token_bits):
            g, h = divmod(i, config.ids_per_token)
            assert stream >> (k * config.token_bits + i) & 1 == ids[k, h] >> g & 1


@given(some_tokens())
def test_every_view_comes_back(tokens: Tokens) -> None:
    payload = tokens.pack()
    bits_a_tile = tokens.code_length * tokens.token_bits
    assert len(payload) == tokens.payload_bytes == tokens.tile_count * ((bits_a_tile + 7) // 8)
    again = Tokens.unpack(
        payload,
        code_length=tokens.code_length,
        token_bits=tokens.token_bits,
        group_bits=tokens.group_bits,
        tiles=tokens.tile_count if tokens.ids.ndim == 3 else None,
    )
    assert again == tokens
    assert hash(again) == hash(tokens)
    assert Tokens.from_signs(tokens.signs(), group_bits=tokens.group_bits) == tokens
    assert Tokens.from_ids(tokens.ids.tolist(), group_bits=tokens.group_bits) == tokens
    assert pickle.loads(pickle.dumps(tokens)) == tokens


@given(some_tokens(), some_tokens())
def test_different_tokens_have_different_payloads(one: Tokens, other: Tokens) -> None:
    same_sizes = one.ids.shape == other.ids.shape and one.group_bits == other.group_bits
    if same_sizes:
        assert (one == other) == (one.pack() == other.pack())


@pytest.mark.parametrize("name", ["lo", "hi"])
def test_tokens_and_network_mean_the_same_bits(name: str) -> None:
    config = preset(name)
    code = torch.randn(config.code_length, config.token_bits)
    code[0, :3] = 0.0  # zero counts as negative
    tokens = Tokens.from_signs(signs(code).numpy(), group_bits=config.group_bits)
    ids = codes_to_ids(code, config.group_bits)
    assert np.array_equal(tokens.ids, ids)
    assert np.array_equal(tokens.signs(), ids_to_signs(ids, config.group_bits))


def test_tiles_are_packed_one_after_the_other_in_whole_bytes() -> None:
    tiles = [
        Tokens.from_ids(ids, group_bits=3) for ids in (IDS, [[0, 5], [6, 7]], [[1, 1], [2, 2]])
    ]
    picture = Tokens.join(tiles)
    assert (picture.tile_count, picture.code_length, picture.token_bits) == (3, 2, 6)
    assert picture.ids.shape == (3, 2, 2)
    assert picture.signs().shape == (3, 2, 6)
    assert picture.pack() == b"".join(one.pack() for one in tiles)
    assert picture.payload_bytes == 3 * tiles[0].payload_bytes == len(picture.pack())
    again = Tokens.unpack(picture.pack(), code_length=2, token_bits=6, group_bits=3, tiles=3)
    assert again == picture == Tokens.from_ids(picture.ids.tolist(), group_bits=3)
    assert [picture.tile(i) for i in range(3)] == tiles
    assert all(picture.tile(i).ids.shape == (2, 2) for i in range(3))
    assert repr(picture) == "Tokens(tile_count=3, code_length=2, token_bits=6, group_bits=3)"
    with pytest.raises(IndexError, match="tile 3 of 3"):
        picture.tile(3)


def test_tokens_of_one_tile_are_equal_with_and_without_its_dimension() -> None:
    alone = Tokens.from_ids(IDS, group_bits=3)
    tiled = Tokens.from_ids([IDS], group_bits=3)
    assert alone == tiled
    assert hash(alone) == hash(tiled)
    assert alone.pack() == tiled.pack()
    assert alone != Tokens.join([alone, alone])


def test_tiles_of_different_sizes_make_no_picture() -> None:
    one = Tokens.from_ids(IDS, group_bits=3)
    with pytest.raises(TokenError, match="2 tiles of"):
        Tokens.join([one, Tokens.from_ids(IDS, group_bits=4)])
    with pytest.raises(TokenError, match="0 tiles"):
        Tokens.join([])


def test_every_tile_has_padding_bits_of_its_own() -> None:
    payload = PAYLOAD + b"\x49\x15"
    with pytest.raises(TokenError, match="last 4 bits"):
        Tokens.unpack(payload, code_length=2, token_bits=6, group_bits=3, tiles=2)
    with pytest.raises(TokenError, match="3 tiles of 2 tokens of 6 bits are 6 bytes, got 4"):
        Tokens.unpack(payload, code_length=2, token_bits=6, group_bits=3, tiles=3)


def test_tokens_cannot_change() -> None:
    ids = np.array(IDS)
    tokens = Tokens(ids=ids, group_bits=3)
    ids[0, 0] = 5
    assert tokens.ids[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        tokens.ids[0, 0] = 5
    with pytest.raises(AttributeError):
        tokens.group_bits = 4  # type: ignore[misc]


def test_tokens_equal_tokens_alone() -> None:
    tokens = Tokens.from_ids(IDS, group_bits=3)
    assert tokens == Tokens(ids=np.array(IDS, np.uint16), group_bits=3)
    assert tokens != Tokens.from_ids(IDS, group_bits=4)
    assert tokens != Tokens.from_ids([[1, 2]], group_bits=3)
    assert tokens != IDS
    assert repr(tokens) == "Tokens(code_length=2, token_bits=6, group_bits=3)"


@pytest.mark.parametrize(
    ("ids", "group_bits", "message"),
    [
        (IDS, 3, "must be a numpy array, got list; Tokens.from_ids"),
        (np.array([1, 2]), 3, r"\[tiles, K, D/G\] with all at least 1, got \[2\]"),
        (np.zeros((1, 1, 2, 2), np.int32), 3, r"one image, so pass one row"),
        (np.zeros((0, 2, 2), np.int32), 3, r"got \[0, 2, 2\]"),
        (np.zeros((0, 2), np.int32), 3, r"got \[0, 2\]"),
        (np.array([[1.0]]), 3, "must be integers, got float64"),
        (np.array([[True]]), 3, "must be integers, got bool"),
        (np.array([[8]]), 3, "ids of 3 bits are 0 to 7, got 8 to 8"),
        (np.array([[-1]]), 3, "got -1 to -1"),
        (np.array([[2**63]], np.uint64), 3, "0 to 7"),
        (np.array([[1]]), 0, "group_bits must be a whole number from 1 to 24, got 0"),
        (np.array([[1]]), 25, "from 1 to 24, got 25"),
        (np.array([[1]]), True, "got True"),
    ],
)
def test_wrong_ids_are_refused(ids: Any, group_bits: int, message: str) -> None:
    with pytest.raises(TokenError, match=message):
        Tokens(ids=ids, group_bits=group_bits)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "K lists of D/G"),
        ("12", "K lists of D/G"),
        ([1, 2], "K lists of D/G"),
        (["12"], "K lists of D/G"),
        (None, "got None"),
        ([[1, 2], [3]], r"lists of \[1, 2\]"),
        ([[]], r"got \[1, 0\]"),
        ([[1, 8]], r"ids\[0\]\[1\] must be a whole number from 0 to 7, got 8"),
        ([[1, 2], [-1, 2]], r"ids\[1\]\[0\] .*got -1"),
        ([[1, 10**30]], r"ids\[0\]\[1\]"),
        ([[1, 2.0]], "got 2.0"),
        ([[1, True]], "got True"),
        ([[1, "x" * 1000]], r"got 'xxx.*\.\.\.$"),
    ],
)
def test_wrong_lists_are_refused(ids: Any, message: str) -> None:
    with pytest.raises(TokenError, match=message):
        Tokens.from_ids(ids, group_bits=3)


@pytest.mark.parametrize(
    ("array", "group_bits", "message"),
    [
        ([[0.5, -1, 1]], 3, "must be -1 or \\+1, got 0.5; quantize"),
        ([[np.nan, -1, 1]], 3, "got nan"),
        ([[True, False, True]], 3, "got bool"),
        ([["a", "b", "c"]], 3, "numbers -1 and"),
        ([1, -1, 1], 3, r"got \[3\]"),
        ([[1, -1]], 3, "group_bits must divide token_bits, got 3 bits an id and 2"),
        ([[1, -1]], 0, "group_bits must be"),
    ],
)
def test_what_is_no_sign_is_refused(array: Any, group_bits: int, message: str) -> None:
    with pytest.raises(TokenError, match=message):
        Tokens.from_signs(np.array(array), group_bits=group_bits)


@pytest.mark.parametrize(
    ("payload", "sizes", "message"),
    [
        (b"\x49", (2, 6, 3), "2 tokens of 6 bits are 2 bytes, got 1"),
        (b"\x49\x05\x00", (2, 6, 3), "are 2 bytes, got 3"),
        (b"\x49\x15", (2, 6, 3), "the last 4 bits of the payload are padding and must be zero"),
        (b"\x49\x05", (2, 6, 4), "group_bits must divide token_bits"),
        (b"", (0, 6, 3), "code_length must be a whole number of at least 1, got 0"),
        (b"", (2, 0, 3), "token_bits must be"),
        (b"\x49\x05", (2.0, 6, 3), "code_length must be a whole number of at least 1, got 2.0"),
    ],
)
def test_wrong_payloads_are_refused(payload: bytes, sizes: Any, message: str) -> None:
    code_length, token_bits, group_bits = sizes
    with pytest.raises(TokenError, match=message):
        Tokens.unpack(
            payload, code_length=code_length, token_bits=token_bits, group_bits=group_bits
        )
