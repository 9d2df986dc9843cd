"""What a picture is named by: its address, and the tag that tells whether one has it already.

Everything that a picture depends on is in both, so an address never means another picture. The tag
is a weak one (RFC 9110, section 8.8.1): a sum may be rounded in another way in another batch, so
two servers, or one server twice, may send files that differ by a bit and look the same.
"""

import base64
import binascii
import hashlib
import json
from urllib.parse import urlencode

from flowmo.imaging.writing import DEFAULT_QUALITY, ImageFormat
from flowmo.model.config import SamplerConfig
from flowmo.model.image_tokens import ImageTokens
from flowmo.service.engine.calls import Region
from flowmo.service.errors import FieldProblem, InvalidFieldsError

PATH = "/v1/pictures/"
# Beyond, proxies and browsers begin to refuse addresses.
MAX_ADDRESS = 8000
_DIGEST_BYTES = 16
_A_YEAR, _AN_HOUR = 31_536_000, 3600


def tag_of(
    tokens: ImageTokens,
    seed: int,
    sampler: SamplerConfig,
    format: ImageFormat,
    quality: int,
    *,
    region: Region | None = None,
) -> str:
    """The ETag of a picture.

    Args:
        tokens: The picture's tokens.
        seed: The seed of the starting noise.
        sampler: The time grid and guidance.
        format: The format of the file.
        quality: 1 to 100, for formats that lose something.
        region: The part of the picture; all of it by default.
    """
    # The container has the picture's size, its tiles and the weights.
    parts = {
        "region": region,
        "seed": seed,
        "sampler": sampler.to_dict(),
        "format": format,
        "quality": None if format == "png" else quality,
    }
    digest = hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=_DIGEST_BYTES)
    digest.update(tokens.to_bytes())
    return f'W/"{digest.hexdigest()}"'


def has_it(if_none_match: str | None, tag: str) -> bool:
    """Whether a client that sent an If-None-Match header has the picture of a tag."""
    given = [one.strip() for one in (if_none_match or "").split(",")]
    return "*" in given or tag.removeprefix("W/") in {one.removeprefix("W/") for one in given}


def address_of(
    container: bytes, seed: int, sampler: SamplerConfig, format: ImageFormat, quality: int
) -> str | None:
    """The address of a picture, with all that it depends on.

    Args:
        container: The picture's tokens.
        seed: The seed of the starting noise.
        sampler: The time grid and guidance.
        format: The format of the file.
        quality: 1 to 100, for formats that lose something.

    Returns:
        A path with a query; None if it would be too long, or if the sampler has a time grid that
        no query can name.
    """
    if sampler.schedule == "explicit":
        return None
    query: dict[str, str | int] = {
        "seed": seed,
        "steps": sampler.steps,
        "schedule": sampler.schedule,
    }
    if sampler.has_rho:
        query["rho"] = repr(sampler.rho)
    query |= {"guidance": repr(sampler.guidance), "format": format}
    if format != "png" and quality != DEFAULT_QUALITY:
        query["quality"] = quality
    text = base64.urlsafe_b64encode(container).decode().rstrip("=")
    address = f"{PATH}{text}?{urlencode(query)}"
    return address if len(address) <= MAX_ADDRESS else None


def container_in(text: str) -> bytes:
    """The container in an address.

    Args:
        text: base64url, with or without its padding.

    Raises:
        InvalidFieldsError: The text is something else.
    """
    try:
        padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
        return base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        message = "must be a token container in base64url (the alphabet with - and _)"
        raise InvalidFieldsError([FieldProblem(field="path.container", message=message)]) from None


def cache_control(*, says_all: bool, is_public: bool) -> str:
    """How long a picture may be kept, and by whom.

    Args:
        says_all: Whether the address says everything, or leaves something to the model's defaults,
            which the operator may change.
        is_public: Whether anybody may ask for it; caches must not hand out what needs a key.
    """
    who = "public" if is_public else "private"
    return f"{who}, max-age={_A_YEAR}, immutable" if says_all else f"{who}, max-age={_AN_HOUR}"
