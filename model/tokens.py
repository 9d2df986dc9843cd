"""The tokens of one image: ids to compute with, packed bytes to store (SPEC "Encode").

An image is one square of the model's size, or T of them, the tiles of a larger picture
(:mod:`flowmo.model.tiling`). Two views of the same K x D bits of a tile, where a bit is 1 for the
sign +1 and 0 for -1:

- *ids* [K, D/G]: element i = g (D/G) + h of token k is bit g, least significant first, of
  ids[k, h]. So ids[k, h] = sum over g of 2^g * bit(k, g (D/G) + h).
- *payload*: element i of token k is stream bit n = k D + i, and stream bit n is bit n % 8, least
  significant first, of byte n // 8. The bits after the last are zero. The payloads of several
  tiles follow each other, each in whole bytes.

Shape legend: T tiles an image, K tokens a tile, D bits a token, G bits an id, h = D / G ids a
token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flowmo.model.errors import TokenError

# A config allows no more (the entropy loss tabulates 2^G vectors), and ids stay far inside int32.
MAX_GROUP_BITS = 24
# Tiles whose bits are spread out at once: it bounds what a large picture takes beside its ids.
_TILES_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tokens:
    """The tokens of one image, checked and immutable.

    Args:
        ids: Integers [K, D/G] of one tile, or [T, K, D/G], each in [0, 2^G). They are copied to a
            read-only int32 array. Tokens of one tile are equal whichever of the two they have.
        group_bits: G, 1 to 24.

    Raises:
        TokenError: The ids have a wrong shape, type or range.
    """

    ids: NDArray[np.int32]
    group_bits: int

    def __post_init__(self) -> None:
        _require_int("group_bits", self.group_bits, 1, MAX_GROUP_BITS)
        ids: Any = self.ids  # what came; it is what it should be only after these checks
        if not isinstance(ids, np.ndarray):
            raise TokenError(
                f"ids must be a numpy array, got {type(ids).__name__}; "
                f"Tokens.from_ids reads nested lists"
            )
        if ids.ndim not in (2, 3) or 0 in ids.shape:
            raise TokenError(
                f"ids must have the shape [K, D/G] or [tiles, K, D/G] with all at least 1, got "
                f"{list(ids.shape)}; Tokens hold one image, so pass one row of a batch"
            )
        if not np.issubdtype(ids.dtype, np.integer):
            raise TokenError(
                f"ids must be integers, got {ids.dtype}; signs are read by Tokens.from_signs"
            )
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= 2**self.group_bits:
            raise TokenError(
                f"ids of {self.group_bits} bits are 0 to {2**self.group_bits - 1}, "
                f"got {low} to {high}; is group_bits that of the model that made them?"
            )
        own = ids.astype(np.int32, order="C", copy=True)
        own.flags.writeable = False
        object.__setattr__(self, "ids", own)

    @property
    def tile_count(self) -> int:
        """The number of tiles, T."""
        return int(self.ids.shape[0]) if self.ids.ndim == 3 else 1

    @property
    def code_length(self) -> int:
        """The number of tokens of a tile, K."""
        return int(self.ids.shape[-2])

    @property
    def ids_per_token(self) -> int:
        """The number of ids of a token, D / G."""
        return int(self.ids.shape[-1])

    @property
    def token_bits(self) -> int:
        """The number of bits of a token, D."""
        return self.ids_per_token * self.group_bits

    @property
    def payload_bits(self) -> int:
        """The exact cost of the tokens in bits, T x K x D."""
        return self.tile_count * self.code_length * self.token_bits

    @property
    def payload_bytes(self) -> int:
        """The length of :meth:`pack`: T times K x D bits in whole bytes."""
        return self.tile_count * payload_bytes(self.code_length, self.token_bits)

    def tile(self, index: int) -> "Tokens":
        """The tokens of one tile, with ids [K, D/G].

        Args:
            index: The tile's number, 0 to T - 1.

        Raises:
            IndexError: There is no such tile.
        """
        if not 0 <= index < self.tile_count:
            raise IndexError(f"tile {index} of {self.tile_count}")
        return Tokens(ids=self._tiled_ids[index], group_bits=self.group_bits)

    @staticmethod
    def join(tiles: "Sequence[Tokens]") -> "Tokens":
        """The tokens of a picture, of the tokens of its tiles, one after the other.

        Args:
            tiles: Tokens of the same K, D and G, at least one.

        Raises:
            TokenError: There are none, or their sizes differ.
        """
        sizes = {(one.code_length, one.token_bits, one.group_bits) for one in tiles}
        if len(sizes) != 1:
            raise TokenError(
                f"the tiles of a picture have the same K, D and G, at least one of them; got "
                f"{len(tiles)} tiles of {sorted(sizes)}"
            )
        ids = np.concatenate([one._tiled_ids for one in tiles])
        return Tokens(ids=ids, group_bits=tiles[0].group_bits)

    def pack(self) -> bytes:
        """The payload, in the order documented at the top of this file."""
        step = range(0, self.tile_count, _TILES_AT_ONCE)
        parts = (self._tiled_ids[start : start + _TILES_AT_ONCE] for start in step)
        rows = (
            np.packbits(_bits(part, self.group_bits).reshape(len(part), -1), -1, bitorder="little")
            for part in parts
        )
        return b"".join(row.tobytes() for row in rows)

    def signs(self) -> NDArray[np.float32]:
        """The quantized code that the decoder takes: float32 [K, D] or [T, K, D] of -1 and +1."""
        bits = _bits(self._tiled_ids, self.group_bits)
        signs = np.where(bits, np.float32(1), np.float32(-1))
        return signs if self.ids.ndim == 3 else signs[0]

    @property
    def _tiled_ids(self) -> NDArray[np.int32]:
        return self.ids.reshape(self.tile_count, self.code_length, self.ids_per_token)

    @classmethod
    def unpack(
        cls,
        payload: bytes | memoryview,
        *,
        code_length: int,
        token_bits: int,
        group_bits: int,
        tiles: int | None = None,
    ) -> Self:
        """Read the tokens of a payload that :meth:`pack` made.

        Args:
            payload: Exactly ceil(K D / 8) bytes, T times.
            code_length: K.
            token_bits: D.
            group_bits: G, dividing D.
            tiles: T, for ids [T, K, D/G]; ids [K, D/G] of one tile without it.

        Raises:
            TokenError: The sizes do not go together, the payload has another length, or the bits
                after the last token of a tile are not zero.
        """
        _require_sizes(code_length, token_bits, group_bits)
        count = 1 if tiles is None else tiles
        _require_int("tiles", count, 1, None)
        each = payload_bytes(code_length, token_bits)
        if len(payload) != count * each:
            of_tiles = "" if tiles is None else f"{tiles} tiles of "
            raise TokenError(
                f"{of_tiles}{code_length} tokens of {token_bits} bits are {count * each} bytes, "
                f"got {len(payload)}; are K and D those of the model that made them?"
            )
        rows = np.frombuffer(payload, np.uint8).reshape(count, each)
        ids = np.empty((count, code_length, token_bits // group_bits), np.int32)
        for start in range(0, count, _TILES_AT_ONCE):  # bits take far more room than bytes
            part = rows[start : start + _TILES_AT_ONCE]
            stream = np.unpackbits(part, axis=1, bitorder="little")
            bits, padding = np.split(stream, [code_length * token_bits], axis=1)
            if padding.any():
                raise TokenError(
                    f"the last {padding.shape[1]} bits of the payload are padding and must be "
                    f"zero; the payload is damaged, or K and D are not those of the model that "
                    f"made it"
                )
            shaped = bits.reshape(len(part), code_length, token_bits)
            ids[start : start + len(part)] = _ids_of_bits(shaped, group_bits)
        return cls(ids=ids[0] if tiles is None else ids, group_bits=group_bits)

    @classmethod
    def from_signs(cls, signs: NDArray[Any], *, group_bits: int) -> Self:
        """The tokens of a quantized code, the inverse of :meth:`signs`.

        Args:
            signs: Numbers [K, D] or [T, K, D], each -1 or +1.
            group_bits: G, dividing D.

        Raises:
            TokenError: The shape is another, or another number is among them.
        """
        array = np.asarray(signs)
        if array.ndim not in (2, 3) or 0 in array.shape:
            raise TokenError(
                f"signs must have the shape [K, D] or [T, K, D] with all at least 1, "
                f"got {list(array.shape)}"
            )
        _require_sizes(array.shape[-2], array.shape[-1], group_bits)
        if array.dtype == np.bool_ or not np.issubdtype(array.dtype, np.number):
            raise TokenError(f"signs must be the numbers -1 and +1, got {array.dtype}")
        positive = array == 1
        if not (positive | (array == -1)).all():
            wrong = array[~(positive | (array == -1))].flat[0]
            raise TokenError(
                f"signs must be -1 or +1, got {wrong}; quantize a code first (+1 where it is "
                f"above 0, else -1)"
            )
        ids = _ids_of_bits(positive.reshape(-1, *array.shape[-2:]), group_bits)
        return cls(ids=ids if array.ndim == 3 else ids[0], group_bits=group_bits)

    @classmethod
    def from_ids(
        cls, ids: Sequence[Sequence[int]] | Sequence[Sequence[Sequence[int]]], *, group_bits: int
    ) -> Self:
        """The tokens of nested lists, as JSON has them; ``tokens.ids.tolist()`` is the inverse.

        Args:
            ids: K lists of D / G whole numbers, each in [0, 2^G); or T such lists of lists.
            group_bits: G, 1 to 24.

        Raises:
            TokenError: They are no such lists.
        """
        _require_int("group_bits", group_bits, 1, MAX_GROUP_BITS)
        if _is_list(ids) and ids and _is_list(ids[0]) and ids[0] and _is_list(ids[0][0]):
            tiles: Any = ids
            joined = Tokens.join([Tokens.from_ids(tile, group_bits=group_bits) for tile in tiles])
            return cls(ids=joined.ids, group_bits=group_bits)
        if not _is_list(ids) or not ids or not all(_is_list(row) for row in ids):
            raise TokenError(f"ids must be K lists of D/G whole numbers, got {_brief(ids)}")
        lengths = {len(row) for row in ids}
        if len(lengths) != 1:
            raise TokenError(
                f"every token must have as many ids as the others, got lists of {sorted(lengths)}"
            )
        for k, row in enumerate(ids):
            for h, value in enumerate(row):
                _require_int(f"ids[{k}][{h}]", value, 0, 2**group_bits - 1)
        return cls(ids=np.array(ids, dtype=np.int32), group_bits=group_bits)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokens):
            return NotImplemented
        return self.group_bits == other.group_bits and np.array_equal(
            self._tiled_ids, other._tiled_ids
        )

    def __hash__(self) -> int:
        return hash((self.group_bits, self._tiled_ids.shape, self.ids.tobytes()))

    def __repr__(self) -> str:
        tiles = "" if self.ids.ndim == 2 else f"tile_count={self.tile_count}, "
        return (
            f"Tokens({tiles}code_length={self.code_length}, token_bits={self.token_bits}, "
            f"group_bits={self.group_bits})"
        )


def _bits(ids: NDArray[np.int32], group_bits: int) -> NDArray[np.uint8]:
    """Ids [T, K, D/G] as [T, K, D] of 0 and 1, in the order of elements."""
    shifts = np.arange(group_bits, dtype=np.int32)[:, None]
    bits = (ids[:, :, None, :] >> shifts) & 1
    return bits.astype(np.uint8).reshape(*ids.shape[:2], -1)


def _ids_of_bits(bits: NDArray[np.uint8] | NDArray[np.bool_], group_bits: int) -> NDArray[np.int32]:
    """The inverse of :func:`_bits`."""
    grouped = bits.astype(np.int32).reshape(*bits.shape[:2], group_bits, -1)
    shifts = np.arange(group_bits, dtype=np.int32)[:, None]
    ids: NDArray[np.int32] = (grouped << shifts).sum(axis=2, dtype=np.int32)
    return ids


def payload_bytes(code_length: int, token_bits: int) -> int:
    """Bytes that K tokens of D bits take."""
    return (code_length * token_bits + 7) // 8


def _require_sizes(code_length: int, token_bits: int, group_bits: int) -> None:
    _require_int("code_length", code_length, 1, None)
    _require_int("token_bits", token_bits, 1, None)
    _require_int("group_bits", group_bits, 1, MAX_GROUP_BITS)
    if token_bits % group_bits:
        raise TokenError(
            f"group_bits must divide token_bits, got {group_bits} bits an id and {token_bits} "
            f"bits a token"
        )


def _require_int(name: str, value: object, low: int, high: int | None) -> None:
    """Whole numbers only: True is no 1, and 1.0 is a mistake somewhere before."""
    if (
        isinstance(value, bool | np.bool_)
        or not isinstance(value, int | np.integer)
        or value < low
        or (high is not None and value > high)
    ):
        allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise TokenError(f"{name} must be a whole number {allowed}, got {_brief(value)}")


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
