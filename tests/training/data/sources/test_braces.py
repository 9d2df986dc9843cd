"""``{000..146}`` and ``{a,b}`` in paths."""

import pytest

from flowmo.training.data.sources.braces import expand_braces
from flowmo.training.errors import DataError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain.tar", ["plain.tar"]),
        ("s-{008..011}.tar", ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{0..10..5}", ["0", "5", "10"]),
        ("{-01..1}", ["-01", "000", "001"]),
        ("{a,b}/{0..1}.tar", ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]),
        ("{train,v{1..2},}", ["train", "v1", "v2", ""]),
        ("{}x{y}", ["{}x{y}"]),
        ("open{1..2", ["open{1..2"]),
        ("{a{1..2}", ["{a1", "{a2"]),
        ("{x{1..2}}", ["{x1}", "{x2}"]),
    ],
)
def test_braces_mean_what_they_mean_in_a_shell(text: str, expected: list[str]) -> None:
    assert expand_braces(text) == expected


@pytest.mark.parametrize("text", ["{0..99999999999}", "{0..9999}{0..9999}"])
def test_a_slip_of_the_pen_does_not_fill_the_memory(text: str) -> None:
    with pytest.raises(DataError, match="more than 1000000 paths"):
        expand_braces(text)
