"""A few requests beside a load, so that more moves: uploads, mistakes, clients that leave."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx

from flowmo.photographs import photograph_paths

_PAUSE_SECONDS = 1.5


@contextmanager
def visitors(url: str) -> Iterator[None]:
    """One request after the other while the block runs.

    Args:
        url: The address of the server.
    """
    done = threading.Event()
    photographs = [path.read_bytes() for path in photograph_paths()]

    def visit() -> None:
        headers = {"Content-Type": "application/octet-stream"}
        with httpx.Client(base_url=url, headers=headers, timeout=60.0, trust_env=False) as client:
            turn = 0
            while not done.wait(_PAUSE_SECONDS):
                photograph = photographs[turn % len(photographs)]
                with suppress(httpx.TransportError):
                    client.post("/v1/tokenize", content=photograph)
                    if turn % 4 == 1:  # a client that leaves
                        query = {"steps": 100, "seed": turn}
                        client.post(
                            "/v1/reconstruct", content=photograph, params=query, timeout=1.0
                        )
                    elif turn % 4 == 3:
                        client.post("/v1/tokenize", content=b"no picture")
                turn += 1

    thread = threading.Thread(target=visit, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
