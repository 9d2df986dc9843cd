"""Pictures by address: what may be kept, by whom, and for how long."""

import asyncio
import base64
from pathlib import Path

import httpx
import pytest

from flowmo.client import Client, Sampling
from flowmo.model.container import MEDIA_TYPE, Container
from flowmo.service.engine.runner import Runner
from flowmo.service.http.keys import digest_of
from flowmo.service.settings import Settings
from tests.service.runners import Gated, client_of

ALL: dict[str, str | int | float] = {"seed": 5, "steps": 3, "schedule": "linear", "guidance": 1.5}


def path_of(container: bytes) -> str:
    return "/v1/pictures/" + base64.urlsafe_b64encode(container).decode().rstrip("=")


def test_an_address_is_the_picture_that_was_posted(http: httpx.Client, container: bytes) -> None:
    for format in ("png", "jpeg", "webp"):
        posted = http.post(
            "/v1/detokenize",
            content=container,
            params={"seed": 5, "quality": 70},
            headers={"Content-Type": MEDIA_TYPE, "Accept": f"image/{format}"},
        )
        address = posted.headers["Content-Location"]
        assert path_of(container) in address
        got = http.get(address, headers={"Accept": "text/html"})
        assert got.status_code == 200
        assert got.content == posted.content
        assert got.headers["Content-Type"] == f"image/{format}"
        assert got.headers["ETag"] == posted.headers["ETag"]
        # Nothing is left to the model's defaults, and nobody needs a key.
        assert got.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert "Accept" not in got.headers.get("Vary", "")


def test_who_has_it_gets_nothing_decoded(runner: Runner, container: bytes) -> None:
    async def main() -> None:
        gated = Gated(runner)
        settings = Settings(cache_bytes=0)
        async with client_of(gated, settings) as client:
            first = await client.get(path_of(container), params=ALL)
            tag = first.headers["ETag"]
            assert tag.startswith('W/"')
            made = len(gated.batches)
            assert made == 3
            for given in (tag, f'"other", {tag}', tag.removeprefix("W/"), "*"):
                again = await client.get(
                    path_of(container), params=ALL, headers={"If-None-Match": given}
                )
                assert again.status_code == 304
                assert again.content == b""
                assert again.headers["ETag"] == tag
                assert again.headers["Cache-Control"] == first.headers["Cache-Control"]
            head = await client.head(path_of(container), params=ALL)
            assert (head.status_code, head.headers["Content-Type"]) == (200, "image/png")
            assert head.headers["ETag"] == tag
            assert len(gated.batches) == made
            other = await client.get(
                path_of(container), params=ALL | {"seed": 6}, headers={"If-None-Match": tag}
            )
            assert other.status_code == 200
            assert len(gated.batches) > made

    asyncio.run(main())


def test_each_thing_that_changes_the_picture_changes_the_tag(
    http: httpx.Client, container: bytes
) -> None:
    base = ALL | {"format": "jpeg", "schedule": "power", "rho": 0.5}
    changes: list[dict[str, object]] = [
        {},
        {"seed": 6},
        {"steps": 2},
        {"schedule": "linear", "rho": None},
        {"guidance": 1.25},
        {"rho": 0.75},
        {"quality": 50},
        {"format": "webp"},
    ]
    tags = set()
    for change in changes:
        params = {k: v for k, v in (base | change).items() if v is not None}
        answer = http.head(path_of(container), params=params)  # type: ignore[arg-type]
        assert answer.status_code == 200, params
        tags.add(answer.headers["ETag"])
    assert len(tags) == len(changes)
    png = [
        http.head(path_of(container), params=ALL | {"quality": quality}).headers["ETag"]
        for quality in (50, 90)
    ]
    assert png[0] == png[1]


def test_what_is_left_to_the_model_is_kept_for_an_hour(
    http: httpx.Client, container: bytes
) -> None:
    answer = http.head(path_of(container), params={"steps": 3})
    assert answer.headers["Cache-Control"] == "public, max-age=3600"


@pytest.mark.parametrize(
    ("path", "params", "status", "code"),
    [
        ("!!!", {}, 422, "invalid-fields"),
        ("AAAA", {}, 400, "not-a-container"),
        (None, {"steps": 0}, 422, "invalid-fields"),
        (None, {"degrade": "allow"}, 422, "invalid-fields"),
        (None, {"format": "gif"}, 422, "invalid-fields"),
    ],
)
def test_addresses_that_mean_nothing(
    http: httpx.Client,
    container: bytes,
    path: str | None,
    params: dict[str, int | str],
    status: int,
    code: str,
) -> None:
    address = path_of(container) if path is None else f"/v1/pictures/{path}"
    answer = http.get(address, params=params)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_shortened_address_is_told(http: httpx.Client, container: bytes) -> None:
    answer = http.get(path_of(container)[:-8])
    assert (answer.status_code, answer.json()["code"]) == (400, "container-truncated")


def test_tokens_of_other_weights(http: httpx.Client, container: bytes) -> None:
    tokens = Container.from_bytes(container).tokens
    other = Container(tokens=tokens, fingerprint="0" * 32, width=32, height=32).to_bytes()
    answer = http.get(path_of(other))
    assert (answer.status_code, answer.json()["code"]) == (409, "container-mismatch")


def test_caches_keep_nothing_for_others_that_needs_a_key(
    runner: Runner, container: bytes, tmp_path: Path
) -> None:
    async def main() -> None:
        settings = Settings(api_keys=f"team:{digest_of('secret')}")
        async with client_of(runner, settings) as client:
            assert (await client.get(path_of(container), params=ALL)).status_code == 401
            answer = await client.get(
                path_of(container), params=ALL, headers={"Authorization": "Bearer secret"}
            )
            assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"

    asyncio.run(main())


def test_the_clients_url(http: httpx.Client, container: bytes) -> None:
    with Client(str(http.base_url)) as client:
        posted = client.detokenize(container, sampling=Sampling(seed=3, steps=2), format="webp")
        url = client.picture_url(container, sampling=Sampling(seed=3, steps=2), format="webp")
        assert http.get(url).content == posted.data
        with pytest.raises(ValueError, match="degrade"):
            client.picture_url(container, sampling=Sampling(degrade="allow"))
