"""The typed client against a real server."""

from pathlib import Path

import pytest

from flowmo.cli.server_process import ServerProcess
from flowmo.client import (
    Client,
    ConnectionFailedError,
    Sampling,
    ServerRefusedError,
    ServerTimeoutError,
)
from service.codec import Codec
from tests.service.pictures import as_file, from_file, gradient

PNG = as_file(gradient())


def test_there_and_back(server: ServerProcess, codec: Codec) -> None:
    with Client(server.url + "/") as client:
        assert client.is_ready()
        (model,) = client.models()
        assert (model.name, model.image_size, model.payload_bytes) == ("nano", 32, 24)
        encoded = client.tokenize(PNG, fit="pad")
        assert encoded.container.fingerprint == model.fingerprint == codec.info.fingerprint
        assert encoded.container.to_bytes() == encoded.data
        assert encoded.token_bytes == 24
        assert encoded.upload_size == (48, 40)
        assert set(encoded.timings) == {"decode_image", "queue", "encode"}
        sampling = Sampling(seed=3, steps=2, schedule="linear", guidance=1.0)
        decoded = client.detokenize(encoded.container, sampling=sampling)
        assert from_file(decoded.data).shape == (32, 32, 3)
        assert (decoded.seed, decoded.steps, decoded.guidance) == (3, 2, 1.0)
        direct = client.reconstruct(PNG, fit="pad", sampling=sampling)
        assert direct.data == decoded.data
        small = client.detokenize(encoded.data, format="jpeg", quality=5)
        assert small.media_type == "image/jpeg"


def test_refusals_carry_the_servers_words(server: ServerProcess) -> None:
    with Client(server.url) as client:
        with pytest.raises(ServerRefusedError) as caught:
            client.tokenize(b"no picture")
        error = caught.value
        assert (error.status, error.code) == (415, "unsupported-image")
        assert error.request_id
        assert error.mend in str(error)
        assert error.retry_after is None
        with pytest.raises(ServerRefusedError) as caught:
            client.reconstruct(PNG, sampling=Sampling(steps=5000))
        assert caught.value.code == "invalid-fields"


def test_no_server_is_its_own_error() -> None:
    with Client("http://127.0.0.1:9") as client:
        assert not client.is_ready()
        with pytest.raises(ConnectionFailedError, match="flowmo serve"):
            client.models()


def test_a_late_answer_is_its_own_error(server: ServerProcess) -> None:
    with Client(server.url, timeout=0.05) as client, pytest.raises(ServerTimeoutError):
        client.reconstruct(PNG, sampling=Sampling(steps=1000))


def test_only_http_urls() -> None:
    with pytest.raises(ValueError, match="http://"):
        Client(str(Path("/some/file")))
