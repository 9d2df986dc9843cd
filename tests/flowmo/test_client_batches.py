"""Lists of images in as few requests as may be; one item costs the others nothing."""

import base64
import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmo.cli.server_process import ServerProcess
from flowmo.client import (
    Client,
    ClientError,
    DecodedImage,
    EncodedImage,
    Retry,
    Sampling,
    ServerRefusedError,
    UnexpectedAnswerError,
)
from flowmo.client.batches import split
from tests.flowmo.scripted import (
    DROP,
    Action,
    Asker,
    Reply,
    Request,
    ScriptedServer,
    problem,
    problem_document,
    script,
    some_container,
)
from tests.service.pictures import as_file, gradient

EXACT = Retry(first_wait=0.0)
# Refused by the server below: for good, and for the first two times.
BROKEN, HASTY = b"broken", b"hasty"
UPLOAD = {"width": 32, "height": 32, "format": "PNG", "animated": False}
FIT = {"fit": "native", "size": 32, "source": [0, 0, 32, 32], "target": [0, 0, 32, 32]}


def batch_server() -> ScriptedServer:
    """Answers as the service does; tokens are the low bits of an item's first byte."""
    seen: Counter[bytes] = Counter()

    def item(request: Request, data: bytes) -> dict[str, object]:
        seen[data] += 1
        if data == BROKEN:
            return {"status": 400, "problem": problem_document(400, "corrupt-image")}
        if data == HASTY and seen[data] < 3:
            document = problem_document(429, "queue-full") | {"retry_after": 2}
            return {"status": 429, "problem": document}
        uploaded = {"upload": UPLOAD, "fit": FIT}
        if request.path == "/v1/tokenize/batch":
            container = base64.b64encode(some_container(data[0] % 16).to_bytes()).decode()
            return {"status": 200, "container": container, **uploaded}
        decoded = {
            "status": 200,
            "media_type": f"image/{request.query['format'][0]}",
            "image": base64.b64encode(b"picture of " + data).decode(),
            "seed": int(request.query["seed"][0]),
            "steps": 4,
            "schedule": "power",
            "guidance": 1.0,
            "degraded_from": 16 if data == b"degraded" else None,
        }
        return decoded | (uploaded if request.path == "/v1/reconstruct/batch" else {})

    def answer(request: Request) -> Reply:
        parts = request.parts()
        assert 1 <= len(parts) <= 64
        assert {name for name, _ in parts} == {"item"}
        items = [item(request, data) for _, data in parts]
        failed = sum("problem" in some for some in items)
        body = {"succeeded": len(items) - failed, "failed": failed, "items": items}
        headers = {"Content-Type": "application/json", "X-Request-ID": "from-server"}
        return Reply(200, json.dumps(body).encode(), headers)

    return ScriptedServer(answer)


def test_outcomes_stand_where_their_items_stood(ask: Asker) -> None:
    images = [b"\x01 one", BROKEN, b"\x03 three\r\n--", b"\x04 four", b"\x05 five"]
    with batch_server() as server:
        outcomes = ask(server, "tokenize_many", images, fit="pad", batch_size=2)
    one, broken, three, four, five = outcomes
    for encoded, ids in ((one, 1), (three, 3), (four, 4), (five, 5)):
        assert isinstance(encoded, EncodedImage)
        assert encoded.container == some_container(ids)
        assert encoded.data == some_container(ids).to_bytes()
        assert (encoded.token_bytes, encoded.upload_size) == (24, (32, 32))
    assert isinstance(broken, ServerRefusedError)
    assert (broken.status, broken.code, broken.hint) == (400, "corrupt-image", "Send it again.")
    assert broken.request_id == "from-server"
    assert [[data for _, data in request.parts()] for request in server.requests] == [
        images[:2],
        images[2:4],
        images[4:],
    ]
    for request in server.requests:
        assert (request.method, request.path) == ("POST", "/v1/tokenize/batch")
        assert request.query == {"fit": ["pad"], "tokens": ["container"]}


def test_options_are_of_all_items(ask: Asker) -> None:
    sampling = Sampling(seed=9, steps=16, guidance=1.5, degrade="allow")
    with batch_server() as server:
        outcomes = ask(
            server,
            "detokenize_many",
            [some_container(), b"degraded"],
            sampling=sampling,
            format="webp",
            quality=70,
            model="micro",
            priority="batch",
            deadline=5.0,
        )
        reconstructed = ask(server, "reconstruct_many", [b"photo"], fit="stretch", format="jpeg")
    first, second = outcomes
    assert isinstance(first, DecodedImage)
    assert first.data == b"picture of " + some_container().to_bytes()
    assert (first.media_type, first.seed, first.steps) == ("image/webp", 9, 4)
    assert (first.schedule, first.guidance, first.degraded_from) == ("power", 1.0, None)
    assert second.degraded_from == 16
    assert reconstructed[0].data == b"picture of photo"
    decode, both = server.requests
    assert (decode.path, both.path) == ("/v1/detokenize/batch", "/v1/reconstruct/batch")
    assert decode.query == {
        "seed": ["9"],
        "steps": ["16"],
        "guidance": ["1.5"],
        "degrade": ["allow"],
        "format": ["webp"],
        "quality": ["70"],
        "model": ["micro"],
    }
    assert decode.headers["flowmo-priority"] == "batch"
    assert decode.headers["x-request-timeout-seconds"] == "5.000"
    assert both.query == {"seed": ["0"], "format": ["jpeg"], "fit": ["stretch"]}


def test_items_that_came_too_soon_are_sent_again_alone(ask: Asker) -> None:
    images = [b"\x01", HASTY, BROKEN, b"\x04"]
    with batch_server() as server:
        outcomes = ask(server, "tokenize_many", images, retry=EXACT)
    assert [type(outcome) for outcome in outcomes] == [
        EncodedImage,
        EncodedImage,
        ServerRefusedError,
        EncodedImage,
    ]
    assert outcomes[1].container == some_container(HASTY[0] % 16)
    assert ask.clock.sleeps == [2.0, 2.0]
    sent = [[data for _, data in request.parts()] for request in server.requests]
    assert sent == [images, [HASTY], [HASTY]]
    assert len({request.headers["x-request-id"] for request in server.requests}) == 1


def test_items_stay_refused_when_the_attempts_are_used_up(ask: Asker) -> None:
    with batch_server() as server:
        hasty, good = ask(server, "tokenize_many", [HASTY, b"\x01"], retry=Retry.none())
    assert (hasty.code, hasty.retry_after) == ("queue-full", 2.0)
    assert isinstance(good, EncodedImage)
    assert ask.clock.sleeps == []


def first_only(action: Action) -> Callable[[], ScriptedServer]:
    """A server whose second request of two gets ``action``."""

    def make() -> ScriptedServer:
        container = base64.b64encode(some_container().to_bytes()).decode()
        item = {"status": 200, "container": container, "upload": UPLOAD, "fit": FIT}
        body = {"succeeded": 1, "failed": 0, "items": [item]}
        return script(Reply(200, json.dumps(body).encode()), action)

    return make


def test_a_request_refused_as_a_whole_refuses_its_items_only(ask: Asker) -> None:
    with first_only(problem(413, "body-too-large"))() as server:
        good, bad = ask(server, "tokenize_many", [b"small", b"large"], batch_size=1)
    assert isinstance(good, EncodedImage)
    assert (bad.status, bad.code) == (413, "body-too-large")


def test_a_server_that_is_gone_is_no_outcome(ask: Asker) -> None:
    with first_only(DROP)() as server, pytest.raises(ClientError, match="broke"):
        ask(server, "tokenize_many", [b"one", b"two"], batch_size=1)


def test_an_answer_of_another_length_is_told(ask: Asker) -> None:
    body = {"succeeded": 0, "failed": 0, "items": []}
    with (
        script(Reply(200, json.dumps(body).encode())) as server,
        pytest.raises(UnexpectedAnswerError, match="1 items were sent, 0 came back"),
    ):
        ask(server, "tokenize_many", [b"one"])


def test_no_items_are_no_request(ask: Asker) -> None:
    with batch_server() as server:
        assert ask(server, "reconstruct_many", []) == []
    assert server.requests == []


@pytest.mark.parametrize("batch_size", [0, 65])
def test_batch_sizes_have_a_range(ask: Asker, batch_size: int) -> None:
    with batch_server() as server, pytest.raises(ValueError, match="1 to 64"):
        ask(server, "detokenize_many", [b"x"], batch_size=batch_size)


@given(
    sizes=st.lists(st.integers(0, 12)),
    most_items=st.integers(1, 5),
    most_bytes=st.integers(1, 20),
)
def test_groups_keep_both_limits_and_are_as_few_as_may_be(
    sizes: list[int], most_items: int, most_bytes: int
) -> None:
    items = [bytes([index % 256]) * size for index, size in enumerate(sizes)]
    groups = [list(group) for group in split(items, most_items, most_bytes)]
    assert [item for group in groups for item in group] == items
    for group in groups:
        assert 1 <= len(group) <= most_items
        assert len(group) == 1 or sum(map(len, group)) <= most_bytes
    for group, following in pairwise(groups):
        joined = sum(map(len, group)) + len(following[0])
        assert len(group) == most_items or joined > most_bytes


# --- the real server ----------------------------------------------------------------------------


def test_lists_go_there_and_back_with_the_real_server(server: ServerProcess) -> None:
    images = [as_file(gradient(width)) for width in (40, 64)]
    with Client(server.url) as client:
        one, bad, two = client.tokenize_many([images[0], b"no picture", images[1]], batch_size=2)
        assert isinstance(bad, ServerRefusedError)
        assert (bad.status, bad.code) == (415, "unsupported-image")
        assert isinstance(one, EncodedImage)
        assert isinstance(two, EncodedImage)
        assert one.data == client.tokenize(images[0]).data
        sampling = Sampling(seed=4, steps=3)
        pictures = client.detokenize_many([one.data, two.container], sampling=sampling)
        for encoded, picture in zip((one, two), pictures, strict=True):
            assert isinstance(picture, DecodedImage)
            assert picture.data == client.detokenize(encoded.data, sampling=sampling).data
            assert (picture.seed, picture.steps) == (4, 3)
        (again,) = client.reconstruct_many(images[:1], sampling=sampling, format="webp")
        assert isinstance(again, DecodedImage)
        assert again.media_type == "image/webp"
