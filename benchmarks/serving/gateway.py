"""What HTTP and the gateway add to a picture, when nothing else is going on."""

import time
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from urllib.parse import urlencode, urlsplit

from benchmarks.serving.load import DETOKENIZE, read_stages
from benchmarks.serving.offline_process import OfflineProcess
from benchmarks.serving.plan import Plan
from benchmarks.serving.server import Server
from benchmarks.serving.summary import Spread, spread
from benchmarks.serving.workload import Ask, Workload

# The stages of the server that compute the picture and its file.
_COMPUTING = ("sample", "encode_image")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gateway:
    """Requests of one step, one at a time, each after one picture computed without a service.

    Attributes:
        latency: The latency of the requests in seconds.
        direct: Seconds from tokens to PNG bytes in a process without a service.
        added: to each request beyond what the server's own stages ``sample`` and ``encode_image``
            took, in seconds: HTTP on both sides, reading the container, hand-overs between
            threads, the wait for the device.
        sample: that stage, in seconds.
        added_to_p50: the p50 of ``latency`` less that of ``direct``, in seconds.
    """

    latency: Spread
    direct: Spread
    added: Spread
    sample: Spread
    added_to_p50: float


def gateway(
    server: Server, offline: OfflineProcess, workload: Workload, plan: Plan, *, seed: int
) -> Gateway:
    """Measure both in turns, picture by picture.

    The client is the standard library's, on one connection: the lightest at hand, since its own
    time counts as HTTP's.

    Args:
        server: idle.
        offline: the same model with as many threads.
        workload: The requests: one step each, answered with PNG.
        plan: how many.
        seed: The seed of the requests.

    Raises:
        ConnectionError: the server did not answer with a picture.
    """
    latency: list[float] = []
    direct: list[float] = []
    added: list[float] = []
    sample: list[float] = []
    address = urlsplit(server.url)
    assert address.hostname is not None
    connection = HTTPConnection(address.hostname, address.port, timeout=60.0)
    try:
        for number, ask in enumerate(workload.draw(plan.gateway_pairs + 1, seed=seed)):
            alone = offline.picture_seconds(1)
            begin = time.perf_counter()
            stages = _decode(connection, ask)
            seconds = time.perf_counter() - begin
            if number == 0:  # both pay for what they keep from then on
                continue
            direct += alone
            latency.append(seconds)
            added.append(seconds - sum(stages[stage] for stage in _COMPUTING))
            sample.append(stages["sample"])
    finally:
        connection.close()
    return Gateway(
        latency=spread(latency),
        direct=spread(direct),
        added=spread(added),
        sample=spread(sample),
        added_to_p50=spread(latency).p50 - spread(direct).p50,
    )


def _decode(connection: HTTPConnection, ask: Ask) -> dict[str, float]:
    """Read a whole answer; gives the server's stages, in seconds."""
    connection.request("POST", f"{DETOKENIZE}?{urlencode(ask.params)}", ask.body, ask.headers)
    answer = connection.getresponse()
    answer.read()
    if answer.status != HTTPStatus.OK:
        raise ConnectionError(f"the server answered with {answer.status}, not with a picture")
    return read_stages(answer.headers["Server-Timing"])
