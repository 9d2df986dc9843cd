"""``{000..146}`` and ``{a,b}`` in paths, as shells and WebDataset write them."""

import re

from flowmo.training.errors import DataError

MOST = 1_000_000
_SEQUENCE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")


def expand_braces(text: str) -> list[str]:
    """Every path that a pattern stands for, in its order; the text itself if it has no braces.

    ``{8..10}`` counts, ``{08..10}`` with leading zeros, ``{0..9..3}`` in steps; ``{a,b}`` lists;
    braces may nest and follow each other, the last one varying fastest. As in a shell, braces
    that are not closed or hold neither a sequence nor a comma mean themselves.

    Raises:
        DataError: more than :data:`MOST` paths.
    """
    begin, end = _first_group(text)
    if begin < 0:
        return [text]
    before, inside, rests = text[:begin], text[begin + 1 : end], expand_braces(text[end + 1 :])
    choices = _choices(inside)
    if len(choices) * len(rests) > MOST:
        raise DataError(f"the braces of {text} stand for more than {MOST} paths")
    return [before + choice + rest for choice in choices for rest in rests]


def _first_group(text: str) -> tuple[int, int]:
    """Positions of the first opening brace that is closed, and of its closing one; or -1, -1."""
    for begin, letter in enumerate(text):
        depth = 0
        for end in range(begin, len(text) if letter == "{" else begin):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                return begin, end
    return -1, -1


def _choices(inside: str) -> list[str]:
    if match := _SEQUENCE.fullmatch(inside):
        return _sequence(*match.groups())
    parts = _split(inside)
    expanded = [path for part in parts for path in expand_braces(part)]
    return expanded if len(parts) > 1 else ["{" + path + "}" for path in expanded]


def _sequence(first: str, last: str, step: str | None) -> list[str]:
    low, high = int(first), int(last)
    stride = abs(int(step or 1)) or 1
    if abs(high - low) // stride >= MOST:
        raise DataError(f"{{{first}..{last}}} stands for more than {MOST} paths")
    padded = any(re.match(r"-?0\d", number) for number in (first, last))
    width = max(len(first), len(last)) if padded else 0
    numbers = range(low, high + 1, stride) if low <= high else range(low, high - 1, -stride)
    return [f"{number:0{width}d}" for number in numbers]


def _split(inside: str) -> list[str]:
    """At the commas outside of inner braces."""
    parts, depth = [""], 0
    for letter in inside:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
