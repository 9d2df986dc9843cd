"""What several tests look at a running server with."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from flowmo.cli.server_process import ServerProcess
from flowmo.model.container import MEDIA_TYPE


def samples(http: httpx.Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a scrape, by name and sorted labels."""
    answer = http.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(http: httpx.Client, name: str, **labels: str) -> float:
    return samples(http).get((name, tuple(sorted(labels.items()))), 0.0)


def wait_for(http: httpx.Client, name: str, wanted: float, **labels: str) -> None:
    for _ in range(600):
        if value(http, name, **labels) >= wanted:
            return
        threading.Event().wait(0.05)
    pytest.fail(f"{name}{labels} did not reach {wanted}")


@contextmanager
def detokenize_by_socket(
    server: ServerProcess, container: bytes, query: str
) -> Iterator[socket.socket]:
    """A request whose client leaves, without a word, at the end of the block."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST /v1/detokenize?{query} HTTP/1.1\r\n"
            f"Host: {host}\r\nContent-Type: {MEDIA_TYPE}\r\n"
            f"Content-Length: {len(container)}\r\n\r\n"
        )
        connection.sendall(head.encode() + container)
        yield connection
