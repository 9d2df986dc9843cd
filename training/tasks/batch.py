"""Cutting what belongs to a batch: a tensor, or a named tuple of tensors."""

from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


def split(value: T, parts: int) -> list[T]:
    """Equal consecutive pieces of a batch.

    Args:
        value: A tensor [B, ...], None, or a named tuple of such values.
        parts: The number of pieces; it divides B.

    Returns:
        The pieces, each in the form of ``value``.
    """
    return list(_split(value, parts))


def _split(value: Any, parts: int) -> list[Any]:
    if value is None:
        return [None] * parts
    if isinstance(value, Tensor):
        assert len(value) % parts == 0, f"{parts} parts of a batch of {len(value)}"
        return list(value.chunk(parts))
    assert isinstance(value, tuple), f"a batch is tensors and named tuples, got {type(value)}"
    columns = [_split(one, parts) for one in value]
    return [type(value)(*row) for row in zip(*columns, strict=True)]
