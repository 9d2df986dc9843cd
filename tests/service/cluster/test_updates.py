"""While a model is exchanged, encoders and decoders of both weights are there for a time."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from flowmo.imaging.reading import Pixels
from flowmo.service.engine.calls import Call, Encoded
from flowmo.service.engine.engines import Encoder
from flowmo.service.engine.local import LocalEngines
from flowmo.service.http import job
from flowmo.service.http.app import create_app
from flowmo.service.loader import load_runner
from flowmo.service.models import Models
from flowmo.service.telemetry.instruments import PrometheusInstruments
from flowmo.service.telemetry.metrics import Metrics
from tests.service.fixtures import cpu
from tests.service.pictures import as_file, gradient

PNG = as_file(gradient())
RAW = {"Content-Type": "image/png"}


class InTurn:
    """Encoders are asked in turn, as Ray's router does."""

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        self._encoders = cycle(encoders)
        self.encoded = 0

    async def encode(self, pixels: Pixels, call: Call) -> Encoded:
        self.encoded += 1
        return await next(self._encoders).encode(pixels, call)


class HalfUpdated:
    """Several encoders of one model; there is one decoder."""

    def __init__(self, encoders: Sequence[LocalEngines], decoder: LocalEngines) -> None:
        self._all = {id(engines): engines for engines in (*encoders, decoder)}
        self.encoder = InTurn([engines.encoder for engines in encoders])
        self._decoder = decoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def start(self) -> None:
        for engines in self._all.values():
            engines.start()

    async def close(self, seconds: float) -> None:
        for engines in self._all.values():
            await engines.close(seconds)


@pytest.fixture
def both(checkpoint: Path, other_checkpoint: Path) -> tuple[LocalEngines, LocalEngines]:
    old, new = (load_runner(cpu(path)) for path in (checkpoint, other_checkpoint))
    return LocalEngines(old, old), LocalEngines(new, new)


def _app(engines: Any) -> FastAPI:
    return create_app(Models({"nano": lambda: engines}), Metrics(PrometheusInstruments()))


def _ask(client: TestClient) -> Any:
    return client.post("/v1/reconstruct", content=PNG, headers=RAW, params={"seed": 3})


def test_a_picture_is_encoded_again_until_a_decoder_has_its_weights(
    both: tuple[LocalEngines, LocalEngines],
) -> None:
    old, new = both
    engines = HalfUpdated([old, old, new], new)
    with TestClient(_app(engines), base_url="http://127.0.0.1") as client:
        client.get("/readyz")
        answers = [_ask(client) for _ in range(2)]
        batch = client.post("/v1/reconstruct/batch", files=[("item", ("a", PNG))])
    assert [answer.status_code for answer in answers] == [200, 200]
    assert {a.headers["Flowmo-Fingerprint"] for a in answers} == {new.info.fingerprint}
    assert answers[0].content == answers[1].content
    assert batch.json()["items"][0]["status"] == 200
    assert engines.encoder.encoded > 3


def test_if_none_ever_has_the_client_gets_409(
    both: tuple[LocalEngines, LocalEngines], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "UPDATE_SECONDS", 0.3)
    old, new = both
    with TestClient(_app(HalfUpdated([old], new)), base_url="http://127.0.0.1") as client:
        answer = _ask(client)
    assert (answer.status_code, answer.json()["code"]) == (409, "other-weights")
