import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmo.service.errors import NotAcceptableError
from flowmo.service.http.negotiation import choose

OFFERS = ("image/png", "image/jpeg", "image/webp")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "image/png"),
        ("", "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("image/webp", "image/webp"),
        ("IMAGE/WebP", "image/webp"),
        ("image/webp, image/jpeg", "image/webp"),
        ("image/webp;q=0.4, image/jpeg;q=0.8", "image/jpeg"),
        ("image/avif, image/webp, */*;q=0.8", "image/webp"),
        ("image/webp, */*", "image/webp"),
        ("*/*, image/png;q=0", "image/jpeg"),
        ("image/*;q=0.5, image/webp;q=0.1", "image/png"),
        ("text/html;q=1, image/jpeg;q=0.1", "image/jpeg"),
        ("nonsense", "image/png"),
        ("nonsense, image/jpeg", "image/jpeg"),
        ("image/jpeg;profile=x;q=0.9", "image/jpeg"),
    ],
)
def test_the_best_offer_is_chosen(accept: str | None, chosen: str) -> None:
    assert choose(accept, OFFERS) == chosen


@pytest.mark.parametrize(
    "accept", ["text/html", "image/avif", "*/*;q=0", "image/png;q=wrong", "image/png;q=nan"]
)
def test_nothing_acceptable_is_an_error_that_lists_the_offers(accept: str) -> None:
    with pytest.raises(NotAcceptableError, match="image/png, image/jpeg, image/webp"):
        choose(accept, OFFERS)


@given(st.text())
def test_no_header_breaks_it(accept: str) -> None:
    with contextlib.suppress(NotAcceptableError):
        assert choose(accept, OFFERS) in OFFERS
