"""Which representation a client wants: the Accept header of RFC 9110, section 12.5.1."""

from collections.abc import Sequence
from dataclasses import dataclass

from flowmo.service.errors import NotAcceptableError


@dataclass(frozen=True, slots=True)
class _Range:
    type: str
    subtype: str
    quality: float

    @property
    def specificity(self) -> int:
        return (self.type != "*") + (self.subtype != "*")

    def matches(self, media_type: str) -> bool:
        type_, _, subtype = media_type.partition("/")
        return self.type in {"*", type_} and self.subtype in {"*", subtype}


def choose(accept: str | None, offers: Sequence[str]) -> str:
    """Choose the offered media type that a client likes best.

    The most specific range that matches an offer gives its quality; of equal qualities the more
    specifically named wins, then the order of the header, then the order of the offers.

    Args:
        accept: The value of the Accept header; None, or a value without a readable range, accepts
            everything.
        offers: The media types on offer, the server's favourite first.

    Raises:
        NotAcceptableError: The header excludes everything on offer.
    """
    ranges = _parse(accept or "")
    if not ranges:
        return offers[0]
    candidates = []
    for index, offer in enumerate(offers):
        matching = [
            (r.specificity, -i, r.quality) for i, r in enumerate(ranges) if r.matches(offer)
        ]
        if matching:
            specificity, order, quality = max(matching)
            if quality > 0:
                candidates.append((quality, specificity, order, -index, offer))
    if not candidates:
        raise NotAcceptableError(f"on offer: {', '.join(offers)}; Accept excludes them all")
    return max(candidates)[-1]


def _parse(accept: str) -> list[_Range]:
    ranges = []
    for item in accept.split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        type_, slash, subtype = name.lower().partition("/")
        if not (slash and type_ and subtype) or (type_ == "*" and subtype != "*"):
            continue
        ranges.append(_Range(type_, subtype, _quality(parameters)))
    return ranges


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                quality = float(value)
            except ValueError:
                return 0.0
            return quality if 0.0 <= quality <= 1.0 else 0.0
    return 1.0
