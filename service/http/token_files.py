"""Token sets as arrays in files: what numerical programs read, and the bare bits.

    application/x-npz              numpy's archive: ids, group_bits, fingerprint, model
    application/vnd.safetensors    the tensor ids; the others are metadata
    application/octet-stream       the packed bits of the ids and nothing else

``ids`` is uint16, or uint32 where an id has more than 16 bits: [K, D/G] of one picture, [N, K, D/G]
of several, which have ``status`` [N], uint16, too: 200, or why the row is zeros.

Whatever comes is bounded before anything is allocated, and nothing is unpickled.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import deserialize as read_safetensors
from safetensors.numpy import save as write_safetensors

from flowmo.model.config import FlowMoConfig
from flowmo.model.container import Container
from flowmo.model.container_format import MAGIC, claimed_size
from flowmo.model.errors import FlowMoError
from flowmo.model.tokens import Tokens
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.errors import MalformedBodyError
from flowmo.service.models import Models

NPZ = "application/x-npz"
SAFETENSORS = "application/vnd.safetensors"
PACKED = "application/octet-stream"
ARRAYS = (NPZ, SAFETENSORS)

# What no bits of tokens are taken for.
_CONTAINER_START = MAGIC[:4]
# Beside the ids: a zip's directory, headers, metadata.
_SLACK_BYTES = 64 * 1024
# int64, what numpy makes of whole numbers if nobody says.
_WIDEST_ID = 8
_MAX_MEMBERS = 8
_MAX_HEADER = 4096
_STORED = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_NARROW_BITS = 16
# numpy's names of the element types that ids may come in, by those of safetensors.
_DTYPES = {"U8": "<u1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4"} | {
    "I64": "<i8",
    "U64": "<u8",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenArray:
    """The token sets of one or several pictures, of one model.

    Attributes:
        ids: Whole numbers [K, D/G], or [N, K, D/G].
        fingerprint: The fingerprint of the weights that made them; None if the file does not say.
        group_bits: G; None if the file does not say.
        model: The name under which the model was served; None if the file does not say.
        status: For each of several pictures 200, or the status of why its row is zeros.
    """

    ids: NDArray[Any]
    fingerprint: str | None = None
    group_bits: int | None = None
    model: str | None = None
    status: NDArray[Any] | None = None

    @classmethod
    def of(
        cls,
        found: Sequence[Tokens | None],
        config: FlowMoConfig,
        *,
        fingerprint: str,
        model: str,
        status: Sequence[int] | None = None,
    ) -> Self:
        """Make the array of what was tokenized.

        Args:
            found: The token sets; None where there is none.
            config: The model's config.
            fingerprint: The fingerprint of the weights that made them.
            model: The name of the model.
            status: The status of each of several pictures; None makes the array of the only one.
        """
        dtype = np.uint16 if config.group_bits <= _NARROW_BITS else np.uint32
        ids = np.zeros((len(found), config.code_length, config.ids_per_token), dtype)
        for row, tokens in enumerate(found):
            if tokens is not None:
                ids[row] = tokens.ids
        return cls(
            ids=ids[0] if status is None else ids,
            fingerprint=fingerprint,
            group_bits=config.group_bits,
            model=model,
            status=None if status is None else np.array(status, np.uint16),
        )

    def to_bytes(self, media_type: str) -> bytes:
        """The file in one of the forms of :data:`ARRAYS`."""
        assert self.fingerprint is not None and self.group_bits is not None
        arrays: dict[str, Any] = {"ids": self.ids}
        if self.status is not None:
            arrays["status"] = self.status
        if media_type == SAFETENSORS:
            metadata = {
                "fingerprint": self.fingerprint,
                "group_bits": str(self.group_bits),
                "model": self.model or "",
            }
            return write_safetensors(arrays, metadata)
        buffer = io.BytesIO()
        np.savez(
            buffer,
            **arrays,
            group_bits=np.array(self.group_bits, np.uint16),
            fingerprint=np.array(self.fingerprint),
            model=np.array(self.model or ""),
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, media_type: str, *, most: int) -> Self:
        """Read a file in one of the forms of :data:`ARRAYS`.

        Args:
            data: The file.
            media_type: Its form.
            most: The most bytes of the file, and of each array in it: see :func:`largest_file`.

        Raises:
            MalformedBodyError: The bytes are no such file, or have no usable ``ids``.
        """
        if len(data) > most:
            raise MalformedBodyError(
                f"the file has {len(data):,} bytes; the tokens that may be in it take at most "
                f"{most:,}"
            )
        read = _from_safetensors if media_type == SAFETENSORS else _from_npz
        members = read(data, most)
        ids = members.get("ids")
        if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu" or ids.ndim not in {2, 3}:
            raise MalformedBodyError(
                "the file needs an array ids of whole numbers, [K, D/G] of one picture or "
                "[N, K, D/G] of several"
            )
        status = members.get("status")
        if status is not None and (ids.ndim != 3 or np.shape(status) != ids.shape[:1]):
            raise MalformedBodyError("status has one number for each picture of ids")
        try:
            group_bits = members.get("group_bits")
            return cls(
                ids=ids,
                fingerprint=_text(members.get("fingerprint")),
                group_bits=None if group_bits is None else int(str(group_bits)[:8]),
                model=_text(members.get("model")),
                status=None if status is None else np.asarray(status).astype(np.int64),
            )
        except ValueError:
            raise MalformedBodyError("group_bits must be one whole number") from None

    def containers(self, models: Models, name: str | None) -> list[Container | FlowMoError]:
        """The token sets one by one, as containers.

        Args:
            models: The models that are served.
            name: The model that was asked for; by default the one that made the tokens.

        Returns:
            A container for each row, or what is wrong with it.

        Raises:
            UnknownModelError: No model has this name.
        """
        info = _info(models, name, self.fingerprint, self.model)
        group_bits = info.config.group_bits if self.group_bits is None else self.group_bits
        rows = self.ids if self.ids.ndim == 3 else self.ids[None]
        found: list[Container | FlowMoError] = []
        for row in rows:
            try:
                tokens = Tokens(ids=row, group_bits=group_bits)
                found.append(_contained(tokens, info, self.fingerprint))
            except FlowMoError as error:
                found.append(error)
        return found


def largest_file(models: Models, pictures: int = 1) -> int:
    """The most bytes of a file of some pictures' tokens, whichever of the models made them."""
    configs = [served.engines.info.config for served in models]
    ids = max(config.code_length * config.ids_per_token for config in configs)
    return pictures * ids * _WIDEST_ID + _SLACK_BYTES


def read_container(
    data: bytes, media_type: str, models: Models, *, name: str | None, fingerprint: str | None
) -> Container:
    """Read one picture's tokens in any of the forms of this file, or a container.

    Args:
        data: The body.
        media_type: What Content-Type says: one of :data:`ARRAYS`, or :data:`PACKED`, which may be a
            container, too.
        models: The models that are served.
        name: The model that was asked for.
        fingerprint: The weights of packed bits, if the client says them.

    Raises:
        MalformedBodyError: The file is none of one picture.
        FlowMoError: The tokens cannot be those of the model.
    """
    if media_type == PACKED:
        return _unpacked(data, models, name, fingerprint)
    array = TokenArray.from_bytes(data, media_type, most=largest_file(models))
    if len(array.ids) != 1 and array.ids.ndim == 3:
        raise MalformedBodyError(
            f"the file has the tokens of {len(array.ids)} pictures; send them to "
            f"/v1/detokenize/batch"
        )
    (found,) = array.containers(models, name)
    if isinstance(found, FlowMoError):
        raise found
    return found


def split_containers(data: bytes, *, most: int) -> list[bytes]:
    """The containers that follow one another in a body, as far as ``most`` and one more.

    They are not read: one whose length is damaged takes those after it with it.
    """
    found: list[bytes] = []
    begin = 0
    while begin < len(data) and len(found) <= most:
        end = begin + claimed_size(data, begin)
        found.append(data[begin:end])
        begin = end
    return found


def split_packed(
    data: bytes, models: Models, *, name: str | None, fingerprint: str | None, most: int
) -> list[Container]:
    """The token sets of packed bits, one after the other, as far as ``most`` and one more.

    Raises:
        MalformedBodyError: They are no whole number of token sets of the model.
        TokenError: The bits between two token sets are not zero.
    """
    size = _info(models, name, fingerprint, None).config.payload_bytes
    if not data or len(data) % size:
        raise MalformedBodyError(
            f"{len(data):,} bytes are no whole number of token sets of {size} bytes"
        )
    begins = range(0, len(data), size)[: most + 1]
    parts = (data[begin : begin + size] for begin in begins)
    return [_unpacked(part, models, name, fingerprint) for part in parts]


def _unpacked(data: bytes, models: Models, name: str | None, fingerprint: str | None) -> Container:
    info = _info(models, name, fingerprint, None)
    config = info.config
    if data.startswith(_CONTAINER_START) or len(data) != config.payload_bytes:
        return Container.from_bytes(data)
    tokens = Tokens.unpack(
        data,
        code_length=config.code_length,
        token_bits=config.token_bits,
        group_bits=config.group_bits,
    )
    return _contained(tokens, info, fingerprint)


def _info(
    models: Models, name: str | None, fingerprint: str | None, made_by: str | None
) -> ModelInfo:
    """The model whose shapes tokens should have."""
    served = None
    if name is None and fingerprint is not None:
        served = models.of_weights(fingerprint) or models.default
    elif name is None and made_by:
        name = made_by
    return (served or models.choose(name)).engines.info


def _contained(tokens: Tokens, info: ModelInfo, fingerprint: str | None) -> Container:
    side = info.image_size
    made_by = info.fingerprint if fingerprint is None else fingerprint.lower()
    return Container(tokens=tokens, fingerprint=made_by, width=side, height=side)


# --- files of strangers -------------------------------------------------------------------------


def _text(value: object) -> str | None:
    text = "" if value is None else str(value)
    return text[:64] or None


def _from_safetensors(data: bytes, _: int) -> Mapping[str, Any]:
    try:
        tensors = dict(read_safetensors(data))  # type: ignore[no-untyped-call]
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError) as error:
        raise MalformedBodyError(f"the body is no safetensors file: {error}") from None
    members: dict[str, Any] = dict(header.get("__metadata__") or {})
    for name in ("ids", "status"):
        if name in tensors:
            members[name] = _array(name, tensors[name])
    return members


def _array(name: str, tensor: Mapping[str, Any]) -> NDArray[Any]:
    if tensor["dtype"] not in _DTYPES:
        raise MalformedBodyError(
            f"{name} must be one of {', '.join(_DTYPES)}, got {tensor['dtype']}"
        )
    values = np.frombuffer(tensor["data"], np.dtype(_DTYPES[tensor["dtype"]]))
    return values.reshape(tensor["shape"])


def _from_npz(data: bytes, most: int) -> Mapping[str, Any]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > _MAX_MEMBERS:
                raise MalformedBodyError(
                    f"the archive has {len(members)} members, at most {_MAX_MEMBERS} are read"
                )
            return {
                member.filename.removesuffix(".npy"): _from_npy(archive, member, most)
                for member in members
            }
    except MalformedBodyError:
        raise
    except (zipfile.BadZipFile, EOFError, ValueError, OSError, NotImplementedError) as error:
        raise MalformedBodyError(f"the body is no npz archive: {error}") from None
    except Exception as error:
        # zlib.error and RuntimeError (a password): what zipfile raises is not listed anywhere.
        raise MalformedBodyError("the body is no npz archive that can be read") from error


def _from_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> NDArray[Any]:
    if member.compress_type not in _STORED:
        raise MalformedBodyError("members of the archive are stored or deflated")
    with archive.open(member) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise MalformedBodyError(f"{member.filename[:40]!r} inflates to more than {most:,} bytes")
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise MalformedBodyError(f"{member.filename[:40]!r} is no npy file of version 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, _MAX_HEADER)
    if dtype.hasobject or dtype.kind not in "iuU":
        raise MalformedBodyError(f"{member.filename[:40]!r} holds neither whole numbers nor text")
    values = np.frombuffer(data, dtype, offset=stream.tell())
    return values.reshape(shape, order="F" if fortran else "C")
