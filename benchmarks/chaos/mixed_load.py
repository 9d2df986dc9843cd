"""A load of every kind of request, right and wrong ones, each with what it should get."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable

import httpx

from benchmarks.chaos.access_lines import NamedRequests
from benchmarks.chaos.application import picture
from benchmarks.chaos.checked_load import RAW

_PACKED = {"Content-Type": "application/vnd.flowmo"}


class Mix:
    """Requests of every kind in turn, each with the statuses that it should get.

    Args:
        url: The address of the service.
        pause: Seconds between a client's requests.
    """

    def __init__(self, url: str, *, pause: float = 0.0) -> None:
        self._url = url
        self._pause = pause
        self.requests = NamedRequests(f"soak{time.time_ns():x}")
        self._upload = picture()
        with httpx.Client(base_url=url, timeout=60) as client:
            headers = RAW | {"Accept": _PACKED["Content-Type"]}
            answer = client.post("/v1/tokenize", content=self._upload, headers=headers)
            self._tokens = answer.raise_for_status().content
        self._kinds: dict[str, tuple[Callable[[httpx.Client, int], int], set[int]]] = {
            "reconstruct": (self._reconstruct, {200}),
            "tokenize": (self._tokenize, {200}),
            "detokenize": (self._detokenize, {200}),
            "batch": (self._batch, {200}),
            "stream": (self._stream, {200}),
            "bad image": (self._bad_image, {400, 415, 422}),
            "bad tokens": (self._bad_tokens, {400, 415, 422}),
            "unknown route": (self._unknown, {404}),
            "walks away": (self._walk_away, {0, 200}),
        }

    def run(self, done: threading.Event, number: int, ends: Counter[str], *, retry: bool) -> None:
        """Send requests until asked to stop.

        Args:
            done: ends it.
            number: The client's number, which decides its first kind and its seeds.
            ends: counts "kind: status", with "expected" or "UNEXPECTED" before it.
            retry: what breaks or is unavailable (503) is asked for again: something is killed.
        """
        kinds = itertools.cycle(self._kinds.items())
        with self.requests.client(self._url) as client:
            for turn, (kind, (send, wanted)) in zip(itertools.count(number), kinds, strict=False):
                if done.wait(self._pause):
                    return
                status = self._status(send, client, turn)
                for _ in range(4):
                    if not retry or status in wanted or 0 < status < 500:
                        break
                    time.sleep(0.5)
                    status = self._status(send, client, turn)
                end = "expected" if status in wanted else "UNEXPECTED"
                ends[f"{end} {kind}: {status or 'no answer'}"] += 1

    @staticmethod
    def _status(send: Callable[[httpx.Client, int], int], client: httpx.Client, turn: int) -> int:
        try:
            return send(client, turn)
        except httpx.HTTPError:
            return 0

    def _reconstruct(self, client: httpx.Client, turn: int) -> int:
        params = {"seed": turn, "steps": 8}
        return client.post(
            "/v1/reconstruct", content=self._upload, headers=RAW, params=params
        ).status_code

    def _tokenize(self, client: httpx.Client, _: int) -> int:
        return client.post("/v1/tokenize", content=self._upload, headers=RAW).status_code

    def _detokenize(self, client: httpx.Client, turn: int) -> int:
        params = {"seed": turn}
        return client.post(
            "/v1/detokenize", content=self._tokens, headers=_PACKED, params=params
        ).status_code

    def _batch(self, client: httpx.Client, _: int) -> int:
        files = [("item", ("a", self._upload)), ("item", ("b", b"no picture"))]
        return client.post("/v1/reconstruct/batch", files=files).status_code

    def _stream(self, client: httpx.Client, turn: int) -> int:
        params = {"stream": True, "steps": 4, "previews": 1, "seed": turn}
        return client.post(
            "/v1/detokenize", content=self._tokens, headers=_PACKED, params=params
        ).status_code

    def _bad_image(self, client: httpx.Client, turn: int) -> int:
        cut = self._upload[: 20 + turn % 40]
        return client.post("/v1/tokenize", content=cut, headers=RAW).status_code

    def _bad_tokens(self, client: httpx.Client, turn: int) -> int:
        cut = self._tokens[: turn % len(self._tokens)]
        return client.post("/v1/detokenize", content=cut, headers=_PACKED).status_code

    def _unknown(self, client: httpx.Client, turn: int) -> int:
        # A label made of paths would grow a series for each.
        return client.get(f"/v1/nothing/{turn}").status_code

    def _walk_away(self, _: httpx.Client, turn: int) -> int:
        with self.requests.client(self._url, timeout=0.05) as client:
            params = {"seed": turn, "steps": 200}
            return client.post(
                "/v1/reconstruct", content=self._upload, headers=RAW, params=params
            ).status_code
