"""Pictures of any size and shape over HTTP: there and back, regions, limits."""

import asyncio
import base64
import json
import time
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image

from flowmo.client import Client
from flowmo.model.container import MEDIA_TYPE, Container
from flowmo.service.engine.runner import Runner
from flowmo.service.settings import Settings
from flowmo.service.telemetry.logs import stages_of
from tests.service.fixtures import CONFIG
from tests.service.pictures import as_file, from_file, gradient
from tests.service.runners import client_of

SIZE = CONFIG.image_size


def tokenize(http: httpx.Client, data: bytes, **params: str) -> Container:
    answer = http.post(
        "/v1/tokenize",
        content=data,
        headers={"Content-Type": "application/octet-stream", "Accept": MEDIA_TYPE},
        params=params,
    )
    assert answer.status_code == 200, answer.text
    container = Container.from_bytes(answer.content)
    tiles = container.layout.tiles
    assert answer.headers["Flowmo-Tiles"] == str(tiles)
    assert answer.headers["Flowmo-Token-Bytes"] == str(tiles * CONFIG.payload_bytes)
    return container


def detokenize(http: httpx.Client, container: Container, **params: str) -> httpx.Response:
    return http.post(
        "/v1/detokenize",
        content=container.to_bytes(),
        headers={"Content-Type": MEDIA_TYPE},
        params={"steps": "1", **params},
    )


def portrait() -> bytes:
    """A photograph of a telephone that was held upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return as_file(Image.fromarray(gradient(96, 54)), "JPEG", exif=exif)


@pytest.mark.parametrize(
    ("data", "width", "height"),
    [
        (as_file(gradient(192, 32)), 192, 32),
        (portrait(), 54, 96),
        (as_file(gradient(1, 1)), 1, 1),
        (as_file(gradient(7, 200)), 7, 200),
    ],
)
def test_any_picture_comes_back_in_its_size(
    http: httpx.Client, data: bytes, width: int, height: int
) -> None:
    container = tokenize(http, data)
    assert (container.width, container.height, container.fit) == (width, height, "native")
    answer = detokenize(http, container)
    assert answer.status_code == 200, answer.text
    assert from_file(answer.content).shape == (height, width, 3)
    both = http.post(
        "/v1/reconstruct",
        content=data,
        headers={"Content-Type": "application/octet-stream"},
        params={"steps": "1"},
    )
    assert np.abs(from_file(both.content).astype(int) - from_file(answer.content)).max() <= 1


def test_the_stages_of_many_tiles_add_up_to_no_more_than_the_request(http: httpx.Client) -> None:
    """Tiles wait and are computed beside each other: their times are not summed."""
    headers = {"Content-Type": "application/octet-stream"}
    begun = time.perf_counter()
    answer = http.post("/v1/tokenize", content=as_file(gradient(320, 320)), headers=headers)
    milliseconds = 1e3 * (time.perf_counter() - begun)
    stages = stages_of(answer.headers["server-timing"])
    assert {"decode_image", "queue", "encode"} <= stages.keys()
    assert stages["encode"] > 0
    assert sum(stages.values()) <= milliseconds


def test_json_has_the_ids_of_every_tile_and_can_be_posted_back(http: httpx.Client) -> None:
    image = base64.b64encode(as_file(gradient(80, 40))).decode()
    message = http.post("/v1/tokenize", json={"image": image, "overlap": 0}).json()
    tokens = message["tokens"]
    ids = np.array(tokens["ids"])
    assert ids.shape == (6, CONFIG.code_length, CONFIG.ids_per_token)
    assert (tokens["width"], tokens["height"], tokens["overlap"]) == (80, 40, 0)
    assert tokens["payload_bytes"] == 6 * CONFIG.payload_bytes
    answer = http.post("/v1/detokenize", json={**message, "steps": 1})
    assert answer.status_code == 200, answer.text
    assert from_file(answer.content).shape == (40, 80, 3)
    del tokens["height"]
    answer = http.post("/v1/detokenize", json=message)
    assert answer.status_code == 422
    assert "a picture has a width and a height" in answer.json()["detail"]
    tokens["height"] = 20
    answer = http.post("/v1/detokenize", json=message)
    assert "takes 3 tiles, got the ids of 6" in answer.json()["detail"]


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_a_square_made_of_a_picture_comes_back_in_its_shape(http: httpx.Client, fit: str) -> None:
    container = tokenize(http, as_file(gradient(96, 40)), fit=fit)
    assert container.tokens.tile_count == 1
    assert from_file(detokenize(http, container).content).shape == (40, 96, 3)
    cropped = tokenize(http, as_file(gradient(96, 40)), fit="crop")
    assert from_file(detokenize(http, cropped).content).shape == (SIZE, SIZE, 3)


def test_a_region_is_cut_out_of_the_picture(http: httpx.Client) -> None:
    container = tokenize(http, as_file(gradient(96, 64)), overlap="0")
    whole = from_file(detokenize(http, container).content)
    answer = detokenize(http, container, region="30,10,50,20")
    assert answer.status_code == 200, answer.text
    part = from_file(answer.content)
    assert part.shape == (20, 50, 3)
    assert np.abs(part.astype(int) - whole[10:30, 30:80]).max() <= 1
    # Whatever is kept of it, another region is another picture.
    assert from_file(detokenize(http, container, region="0,0,1,1").content).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("region", "message"),
    [("90,0,7,5", "inside the picture of 96 x 64"), ("0,0,0,5", "not be empty"), ("1,2,3", "")],
)
def test_regions_that_cannot_be_are_refused(http: httpx.Client, region: str, message: str) -> None:
    container = tokenize(http, as_file(gradient(96, 64)))
    answer = detokenize(http, container, region=region)
    assert answer.status_code == 422
    assert message in json.dumps(answer.json()["errors"])


def test_previews_are_of_the_whole_picture(http: httpx.Client) -> None:
    container = tokenize(http, as_file(gradient(80, 40)))
    answer = detokenize(http, container, steps="3", stream="true", previews="2")
    events = [block.split("\n") for block in answer.text.strip().split("\n\n")]
    named = [
        (lines[0].removeprefix("event: "), lines[1].removeprefix("data: ")) for lines in events
    ]
    assert [name for name, _ in named] == ["progress", "progress", "preview", "progress", "image"]
    for name, data in named:
        if name in {"preview", "image"}:
            image = base64.b64decode(json.loads(data)["image"])
            assert from_file(image).shape == (40, 80, 3)


def test_items_of_batches_have_their_own_sizes(http: httpx.Client) -> None:
    images = [
        base64.b64encode(as_file(gradient(*size))).decode() for size in ((80, 40), (9, 9), (32, 32))
    ]
    message = http.post("/v1/tokenize/batch", json={"items": [{"image": one} for one in images]})
    assert message.json()["succeeded"] == 3, message.text
    made = http.post("/v1/detokenize/batch", json={**message.json(), "steps": 1}).json()
    assert made["succeeded"] == 3, made
    shapes = [from_file(base64.b64decode(one["image"])).shape for one in made["items"]]
    assert shapes == [(40, 80, 3), (9, 9, 3), (32, 32, 3)]


def test_the_client_sends_and_gets_any_size(http: httpx.Client) -> None:
    with Client(str(http.base_url)) as client:
        encoded = client.tokenize(gradient(100, 20), overlap=0.5)
        assert encoded.container.overlap == SIZE // 2
        assert encoded.token_bytes == encoded.container.layout.tiles * CONFIG.payload_bytes
        assert client.detokenize(encoded).to_pil().size == (100, 20)
        assert client.detokenize(encoded, region=(10, 5, 40, 9)).to_pil().size == (40, 9)


def test_larger_pictures_than_the_limits_are_refused_by_name(runner: Runner) -> None:
    asyncio.run(limits_are_named(runner))


async def limits_are_named(runner: Runner) -> None:
    settings = Settings(max_tiles=4, max_pixels=10_000)
    big = as_file(gradient(100, 99))
    async with client_of(runner, settings) as http:
        headers = {"Content-Type": "image/png", "Accept": MEDIA_TYPE}
        answer = await http.post("/v1/tokenize", content=big, headers=headers)
        assert answer.status_code == 413
        assert answer.json()["code"] == "picture-too-large"
        assert "at most 4 are accepted" in answer.json()["detail"]
        answer = await http.post("/v1/tokenize?fit=pad", content=big, headers=headers)
        assert answer.status_code == 200
        # What comes out is limited, too: a few hundred bytes can name any size.
        container = Container.from_bytes(answer.content)
        huge = Container(
            tokens=container.tokens,
            fingerprint=container.fingerprint,
            width=60_000,
            height=60_000,
            tile_size=SIZE,
            fit="pad",
        )
        answer = await http.post(
            "/v1/detokenize", content=huge.to_bytes(), headers={"Content-Type": MEDIA_TYPE}
        )
        assert answer.status_code == 413
        assert "3,600,000,000 pixels, at most 10,000 are accepted" in answer.json()["detail"]


def test_a_picture_may_have_more_tiles_than_the_queue_has_room(runner: Runner) -> None:
    async def work() -> None:
        async with client_of(runner, max_queued_requests=1) as http:
            answer = await http.post(
                "/v1/reconstruct?steps=1",
                content=as_file(gradient(80, 40)),
                headers={"Content-Type": "image/png"},
            )
            assert answer.status_code == 200, answer.text
            assert from_file(answer.content).shape == (40, 80, 3)

    asyncio.run(work())


def test_the_same_ids_in_another_layout_are_another_entry_of_the_cache(runner: Runner) -> None:
    asyncio.run(layouts_are_kept_apart(runner))


async def layouts_are_kept_apart(runner: Runner) -> None:
    accept = {"Content-Type": "image/png", "Accept": MEDIA_TYPE}
    async with client_of(runner) as http:
        square, strip = [
            Container.from_bytes(
                (
                    await http.post(
                        "/v1/tokenize", content=as_file(gradient(SIZE, height)), headers=accept
                    )
                ).content
            )
            for height in (SIZE, SIZE * 5 // 2)
        ]
        assert strip.overlap
        padded = replace(square, width=2 * SIZE, height=SIZE, tile_size=SIZE, fit="pad")
        for container in (square, padded, strip, replace(strip, overlap=0)):
            outcomes = []
            for _ in range(2):
                answer = await http.post(
                    "/v1/detokenize?steps=1",
                    content=container.to_bytes(),
                    headers={"Content-Type": MEDIA_TYPE},
                )
                outcomes.append(answer.headers["Flowmo-Cache"])
                size = from_file(answer.content).shape[1::-1]
                assert size == (container.width, container.height)
            assert outcomes == ["miss", "hit"]


def test_metrics_count_tiles(http: httpx.Client) -> None:
    tokenize(http, as_file(gradient(192, 32)))
    text = http.get("/metrics").text
    assert 'flowmo_picture_tiles_bucket{le="16.0",model="nano"}' in text
    assert 'flowmo_picture_pixels_count{model="nano"}' in text
