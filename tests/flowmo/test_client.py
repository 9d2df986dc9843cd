"""The typed clients against a real server."""

import asyncio
from pathlib import Path

import pytest

from flowmo.cli.server_process import ServerProcess
from flowmo.client import (
    AsyncClient,
    Client,
    ConnectionFailedError,
    DecodedImage,
    EncodedImage,
    Progress,
    Retry,
    Sampling,
    ServerRefusedError,
    ServerTimeoutError,
)
from flowmo.model.inference import InferenceModel
from tests.flowmo.scripted import Asker
from tests.service.pictures import as_file, from_file, gradient

PNG = as_file(gradient())
SAMPLING = Sampling(seed=3, steps=2, schedule="linear", guidance=1.0)


def test_there_and_back(server: ServerProcess, inference_model: InferenceModel) -> None:
    with Client(server.url + "/") as client:
        assert client.is_ready()
        (model,) = client.models()
        assert (model.name, model.image_size, model.payload_bytes) == ("nano", 32, 24)
        encoded = client.tokenize(PNG, fit="pad", request_id="mine")
        assert encoded.container.fingerprint == model.fingerprint == inference_model.fingerprint
        assert encoded.container.to_bytes() == encoded.data
        assert encoded.token_bytes == 24
        assert encoded.upload_size == (32, 32)
        assert set(encoded.timings) == {"decode_image", "queue", "encode"}
        assert encoded.request_id == "mine"
        decoded = client.detokenize(encoded.container, sampling=SAMPLING)
        assert from_file(decoded.data).shape == (32, 32, 3)
        assert (decoded.seed, decoded.steps, decoded.schedule) == (3, 2, "linear")
        assert (decoded.guidance, decoded.degraded_from) == (1.0, None)
        assert decoded.seconds > 0
        *_, last = client.stream_detokenize(encoded.container, sampling=SAMPLING)
        assert isinstance(last, DecodedImage)
        assert last.data == decoded.data
        assert last.seconds > 0
        direct = client.reconstruct(PNG, fit="pad", sampling=SAMPLING)
        assert direct.data == decoded.data
        small = client.detokenize(encoded.data, format="jpeg", quality=5)
        assert small.media_type == "image/jpeg"


def test_coroutines_get_the_same(server: ServerProcess) -> None:
    async def main() -> tuple[EncodedImage, list[DecodedImage]]:
        async with AsyncClient(server.url + "/") as client:
            assert client.url == server.url
            assert await client.is_ready()
            (model,) = await client.models()
            assert model.name == "nano"
            encoded = await client.tokenize(PNG, fit="pad")
            pictures = await asyncio.gather(
                *(client.detokenize(encoded.data, sampling=SAMPLING) for _ in range(8)),
                client.reconstruct(PNG, fit="pad", sampling=SAMPLING),
            )
            return encoded, pictures

    encoded, pictures = asyncio.run(main())
    with Client(server.url) as client:
        assert client.tokenize(PNG, fit="pad").data == encoded.data
        decoded = client.detokenize(encoded.data, sampling=SAMPLING)
    for picture in pictures:
        assert picture.seed == 3
        # At another batch size sums are taken in another order.
        difference = from_file(picture.data).astype(int) - from_file(decoded.data)
        assert abs(difference).max() <= 1


def test_refusals_carry_the_servers_words(ask: Asker, server: ServerProcess) -> None:
    with pytest.raises(ServerRefusedError) as caught:
        ask(server, "tokenize", b"no picture", request_id="mine")
    error = caught.value
    assert (error.status, error.code) == (415, "unsupported-image")
    assert error.request_id == "mine"
    assert error.hint in str(error)
    assert error.retry_after is None
    with pytest.raises(ServerRefusedError) as caught:
        ask(server, "reconstruct", PNG, sampling=Sampling(steps=5000))
    assert caught.value.code == "invalid-fields"


def test_no_server_is_its_own_error() -> None:
    with Client("http://127.0.0.1:9", retry=Retry.none()) as client:
        assert not client.is_ready()
        with pytest.raises(ConnectionFailedError, match="flowmo serve"):
            client.models()
        with pytest.raises(ConnectionFailedError):
            list(client.stream_detokenize(b""))


def test_a_late_answer_is_its_own_error(ask: Asker, server: ServerProcess) -> None:
    long = Sampling(steps=1000)
    with pytest.raises(ServerTimeoutError):
        ask(server, "reconstruct", PNG, sampling=long, client={"timeout": 0.05})


def test_a_stream_may_last_longer_than_the_wait_for_each_event(server: ServerProcess) -> None:
    with Client(server.url, timeout=5.0) as client:
        encoded = client.tokenize(PNG)
        news = client.stream_detokenize(encoded.data, sampling=Sampling(steps=50))
        steps = [event.step for event in news if isinstance(event, Progress)]
    assert steps == list(range(1, 51))


@pytest.mark.parametrize(
    "url", [str(Path("/some/file")), "http://", "http://host:port", "ftp://host"]
)
def test_only_http_urls(url: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="http://"):
            kind(url)
