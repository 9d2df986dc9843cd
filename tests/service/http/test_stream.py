"""Decodes as Server-Sent Events, from the real server."""

import asyncio
import base64
import json
from collections.abc import Iterator

import httpx
import jsonschema
import numpy as np
import pytest

from flowmo.cli.server_process import ServerProcess
from flowmo.model.container import MEDIA_TYPE
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import Call, Decoded, DecodeOptions, Watch
from flowmo.service.engine.runner import Runner
from tests.service.pictures import from_file
from tests.service.probes import detokenize_by_socket, value, wait_for
from tests.service.runners import Gated, client_of

HEADERS = {"Content-Type": MEDIA_TYPE}


def events(text: str) -> Iterator[tuple[str, dict[str, object]]]:
    """As a client reads them."""
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        yield fields["event"], json.loads(fields["data"])


def picture(data: dict[str, object]) -> bytes:
    return base64.b64decode(str(data["image"]))


def test_progress_previews_and_the_picture(http: httpx.Client, container: bytes) -> None:
    params = {"steps": 4, "seed": 5}
    plain = http.post("/v1/detokenize", content=container, headers=HEADERS, params=params)
    answer = http.post(
        "/v1/detokenize",
        content=container,
        headers=HEADERS | {"X-Request-ID": "mine"},
        params={**params, "stream": True, "previews": [2, 4, 99]},
    )
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.headers["X-Request-ID"] == "mine"
    came = list(events(answer.text))
    assert [(name, data.get("step")) for name, data in came] == [
        ("progress", 1),
        ("progress", 2),
        ("preview", 2),
        ("progress", 3),
        ("progress", 4),
        ("preview", 4),
        ("image", None),
    ]
    last = came[-1][1]
    assert last["media_type"] == "image/png"
    assert picture(last) == plain.content
    headers = last["headers"]
    assert isinstance(headers, dict)
    assert (headers["Flowmo-Steps"], headers["Flowmo-Seed"]) == ("4", "5")
    weights = plain.headers["Flowmo-Fingerprint"]
    assert answer.headers["Flowmo-Fingerprint"] == weights
    assert headers["Flowmo-Fingerprint"] == last["fingerprint"] == weights
    assert "sample;dur=" in headers["Server-Timing"]
    early, late = (from_file(picture(data)).astype(int) for _, data in (came[2], came[5]))
    final = from_file(picture(last))
    assert np.abs(late - final).max() <= 1
    assert np.abs(early - final).mean() > np.abs(late - final).mean()


def test_a_stream_is_made_with_the_weights_that_it_names(runner: Runner, container: bytes) -> None:
    async def main() -> None:
        async with client_of(runner) as client:
            (served,) = client._transport.app.state.service.models  # type: ignore[attr-defined]
            asked: list[str | None] = []
            decode = served.engines.decoder.decode

            async def seen(
                tokens: Tokens, options: DecodeOptions, call: Call, watch: Watch | None = None
            ) -> Decoded:
                asked.append(options.weights)
                decoded: Decoded = await decode(tokens, options, call, watch)
                return decoded

            served.engines.decoder.decode = seen
            answers = [
                await client.post(
                    "/v1/detokenize", content=container, headers=HEADERS, params={"stream": stream}
                )
                for stream in (False, True)
            ]
            named = [answer.headers["Flowmo-Fingerprint"] for answer in answers]
            # Else a replica with other weights would take it in a rolling update.
            assert asked == named == [runner.info.fingerprint] * 2

    asyncio.run(main())


def test_events_are_as_the_document_says(http: httpx.Client, container: bytes) -> None:
    document = http.get("/openapi.json").json()
    answers = document["paths"]["/v1/detokenize"]["post"]["responses"]["200"]["content"]
    schema = answers["text/event-stream"]["schema"]
    answer = http.post(
        "/v1/detokenize",
        content=container,
        headers=HEADERS,
        params={"steps": 2, "stream": True, "previews": [1]},
    )
    blocks = answer.text.strip().split("\n\n")
    assert len(blocks) == 4
    for block in blocks:
        event = dict(line.split(": ", 1) for line in block.splitlines())
        jsonschema.validate(event, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"event": "else", "data": "{}"}, schema)


def test_an_accept_header_asks_for_events_too(http: httpx.Client, container: bytes) -> None:
    answer = http.post(
        "/v1/detokenize", content=container, headers=HEADERS | {"Accept": "text/event-stream"}
    )
    assert [name for name, _ in events(answer.text)][-1] == "image"
    webp = http.post(
        "/v1/detokenize",
        content=container,
        headers=HEADERS | {"Accept": "image/webp"},
        params={"stream": True},
    )
    *_, (_, last) = events(webp.text)
    assert last["media_type"] == "image/webp"
    assert picture(last)[8:12] == b"WEBP"


def test_what_fails_before_the_first_step_is_an_ordinary_error(
    http: httpx.Client, container: bytes
) -> None:
    params = {"stream": True}
    broken = http.post("/v1/detokenize", content=b"no", headers=HEADERS, params=params)
    assert (broken.status_code, broken.json()["code"]) == (400, "not-a-container")
    late = http.post(
        "/v1/detokenize",
        content=container,
        headers=HEADERS | {"X-Request-Timeout-Seconds": "0.02"},
        params=params | {"steps": 1000},
    )
    assert (late.status_code, late.json()["code"]) == (429, "deadline-unreachable")
    wrong = http.post(
        "/v1/detokenize", content=container, headers=HEADERS, params=params | {"previews": 0}
    )
    assert wrong.status_code == 422
    assert value(http, "flowmo_requests_admitted") == 0


def test_what_fails_later_is_an_event(runner: Runner, container: bytes) -> None:
    gated = Gated(runner)

    async def main() -> None:
        async with client_of(gated) as client:
            gated.fail_after = 3
            answer = await client.post(
                "/v1/detokenize",
                content=container,
                headers=HEADERS,
                params={"stream": True, "steps": 50},
            )
            assert answer.status_code == 200
            came = list(events(answer.text))
            assert [name for name, _ in came] == ["progress"] * 3 + ["error"]
            assert came[-1][1]["code"] == "compute-failed"
            assert came[-1][1]["status"] == 500
            assert "flowmo_requests_admitted 0.0" in (await client.get("/metrics")).text

    asyncio.run(main())


def test_a_client_that_leaves_its_stream_frees_its_rows(
    http: httpx.Client, server: ServerProcess, container: bytes
) -> None:
    saved = value(http, "flowmo_steps_saved_total", model="nano", reason="cancelled")
    query = "steps=1000&stream=true"
    with detokenize_by_socket(server, container, query) as connection:
        assert b"200 OK" in connection.recv(65536)
    wait_for(http, "flowmo_steps_saved_total", saved + 1, model="nano", reason="cancelled")
    assert value(http, "flowmo_requests_admitted") == 0
