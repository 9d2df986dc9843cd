"""The tokens of one image: ids to compute with, packed bytes to store (SPEC "Encode").

Two views of the same K x D bits, where a bit is 1 for the sign +1 and 0 for -1:

- *ids* [K, D/G]: element i = g (D/G) + h of token k is bit g, least significant first, of
  ids[k, h]. So ids[k, h] = sum over g of 2^g * bit(k, g (D/G) + h).
- *payload*: element i of token k is stream bit n = k D + i, and stream bit n is bit n % 8, least
  significant first, of byte n // 8. The bits after the last are zero.

Shape legend: K tokens an image, D bits a token, G bits an id, h = D / G ids a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flowmo.model.errors import TokenError

# A config allows no more (the entropy loss tabulates 2^G vectors), and ids stay far inside int32.
MAX_GROUP_BITS = 24


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tokens:
    """The tokens of one image, checked and immutable.

    Args:
        ids: Integers [K, D/G], each in [0, 2^G). They are copied to a read-only int32 array.
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
        if ids.ndim != 2 or 0 in ids.shape:
            raise TokenError(
                f"ids must have the shape [K, D/G] with both at least 1, got {list(ids.shape)}; "
                f"Tokens hold one image, so pass one row of a batch"
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
    def code_length(self) -> int:
        """The number of tokens of the image, K."""
        return int(self.ids.shape[0])

    @property
    def ids_per_token(self) -> int:
        """The number of ids of a token, D / G."""
        return int(self.ids.shape[1])

    @property
    def token_bits(self) -> int:
        """The number of bits of a token, D."""
        return self.ids_per_token * self.group_bits

    @property
    def payload_bits(self) -> int:
        """The exact cost of the tokens in bits, K x D."""
        return self.code_length * self.token_bits

    @property
    def payload_bytes(self) -> int:
        """The length of :meth:`pack`: K x D bits in whole bytes."""
        return payload_bytes(self.code_length, self.token_bits)

    def pack(self) -> bytes:
        """The payload: K x D bits in the order documented at the top of this file."""
        return np.packbits(self._bits().reshape(-1), bitorder="little").tobytes()

    def signs(self) -> NDArray[np.float32]:
        """The quantized code that the decoder takes: float32 [K, D] of -1 and +1."""
        return np.where(self._bits(), np.float32(1), np.float32(-1))

    def _bits(self) -> NDArray[np.uint8]:
        """[K, D] of 0 and 1, in the order of elements."""
        shifts = np.arange(self.group_bits, dtype=np.int32)[:, None]
        bits = (self.ids[:, None, :] >> shifts) & 1
        return bits.astype(np.uint8).reshape(self.code_length, self.token_bits)

    @classmethod
    def _from_bits(cls, bits: NDArray[np.uint8] | NDArray[np.bool_], group_bits: int) -> Self:
        """Inverse of :meth:`_bits`."""
        grouped = bits.astype(np.int32).reshape(bits.shape[0], group_bits, -1)
        shifts = np.arange(group_bits, dtype=np.int32)[:, None]
        return cls(ids=(grouped << shifts).sum(axis=1, dtype=np.int32), group_bits=group_bits)

    @classmethod
    def unpack(cls, payload: bytes, *, code_length: int, token_bits: int, group_bits: int) -> Self:
        """Read the tokens of a payload that :meth:`pack` made.

        Args:
            payload: Exactly ceil(K D / 8) bytes.
            code_length: K.
            token_bits: D.
            group_bits: G, dividing D.

        Raises:
            TokenError: The sizes do not go together, the payload has another length, or the bits
                after the last token are not zero.
        """
        _require_sizes(code_length, token_bits, group_bits)
        expected = payload_bytes(code_length, token_bits)
        if len(payload) != expected:
            raise TokenError(
                f"{code_length} tokens of {token_bits} bits are {expected} bytes, "
                f"got {len(payload)}; are K and D those of the model that made them?"
            )
        stream = np.unpackbits(np.frombuffer(payload, np.uint8), bitorder="little")
        bits, padding = np.split(stream, [code_length * token_bits])
        if padding.any():
            raise TokenError(
                f"the last {len(padding)} bits of the payload are padding and must be zero; "
                f"the payload is damaged, or K and D are not those of the model that made it"
            )
        return cls._from_bits(bits.reshape(code_length, token_bits), group_bits)

    @classmethod
    def from_signs(cls, signs: NDArray[Any], *, group_bits: int) -> Self:
        """The tokens of a quantized code, the inverse of :meth:`signs`.

        Args:
            signs: Numbers [K, D], each -1 or +1.
            group_bits: G, dividing D.

        Raises:
            TokenError: The shape is another, or another number is among them.
        """
        array = np.asarray(signs)
        if array.ndim != 2 or 0 in array.shape:
            raise TokenError(
                f"signs must have the shape [K, D] with both at least 1, got {list(array.shape)}"
            )
        _require_sizes(array.shape[0], array.shape[1], group_bits)
        if array.dtype == np.bool_ or not np.issubdtype(array.dtype, np.number):
            raise TokenError(f"signs must be the numbers -1 and +1, got {array.dtype}")
        positive = array == 1
        if not (positive | (array == -1)).all():
            wrong = array[~(positive | (array == -1))].flat[0]
            raise TokenError(
                f"signs must be -1 or +1, got {wrong}; quantize a code first (+1 where it is "
                f"above 0, else -1)"
            )
        return cls._from_bits(positive, group_bits)

    @classmethod
    def from_ids(cls, ids: Sequence[Sequence[int]], *, group_bits: int) -> Self:
        """The tokens of nested lists, as JSON has them; ``tokens.ids.tolist()`` is the inverse.

        Args:
            ids: K lists of D / G whole numbers, each in [0, 2^G).
            group_bits: G, 1 to 24.

        Raises:
            TokenError: They are no such lists.
        """
        _require_int("group_bits", group_bits, 1, MAX_GROUP_BITS)
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
        return self.group_bits == other.group_bits and np.array_equal(self.ids, other.ids)

    def __hash__(self) -> int:
        return hash((self.group_bits, self.ids.shape, self.ids.tobytes()))

    def __repr__(self) -> str:
        return (
            f"Tokens(code_length={self.code_length}, token_bits={self.token_bits}, "
            f"group_bits={self.group_bits})"
        )


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
