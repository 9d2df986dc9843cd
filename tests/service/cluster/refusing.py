"""Decoders of which all but one refuse, on a Ray cluster of this process; prints who decoded.

Run by a test in a process of its own: Ray leaves files open.
"""

import asyncio
import faulthandler
import json
import logging
import sys
import time
from typing import Any

import ray
from ray import serve

from flowmo.service.cluster.remote import RemoteEngines
from flowmo.service.engine.calls import Call
from flowmo.service.engine.messages import CallMessage, RemoteError
from flowmo.service.errors import DeadlineUnreachableError, QueueFullError

REPLICAS = 3
CALLS = 20


@serve.deployment(
    num_replicas=REPLICAS,
    ray_actor_options={"num_cpus": 0},
    request_router_config={
        "request_router_class": "flowmo.service.cluster.router:OtherReplicaRouter"
    },
)
class Decoder:
    """Refuses, unless it is told by its id that it has room."""

    def __init__(self) -> None:
        self.id = serve.get_replica_context().replica_id.unique_id
        self.refused = 0

    def who(self) -> str:
        return self.id

    def backlog_seconds(self) -> float:
        return 40.0

    def refusals(self) -> int:
        return self.refused

    def decode(self, accepts: str, number: int, call: CallMessage) -> str | RemoteError:
        if self.id == accepts:
            return self.id
        self.refused += 1
        if number % 2:
            return RemoteError(DeadlineUnreachableError("later", retry_after=7), self.id)
        return RemoteError(QueueFullError("full", retry_after=9), self.id)


class Number(int):
    """The number of a call, in the place of the options of a decode."""

    patience = 0.0


async def main() -> dict[str, Any]:
    deployment: Any = Decoder
    handle: Any = serve.run(deployment.bind(), name="refusing", route_prefix=None)
    engines = RemoteEngines(None, handle, handle)  # type: ignore[arg-type]
    ids = await handle.broadcast("who").results_async()
    begin = time.monotonic()
    done = [
        await engines.decoder.decode(ids[n % REPLICAS], Number(n), Call(deadline=begin + 60))  # type: ignore[arg-type]
        == ids[n % REPLICAS]
        for n in range(CALLS)
    ]
    refusals = sum(await handle.broadcast("refusals").results_async())
    try:
        await engines.decoder.decode("nobody", Number(1), Call(deadline=begin + 60))  # type: ignore[arg-type]
        least = 0
    except DeadlineUnreachableError as error:
        least = error.retry_after
    asked = sum(await handle.broadcast("refusals").results_async()) - refusals
    engines.start()
    while not engines.backlog_seconds:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    backlog = engines.backlog_seconds
    await engines.close(1.0)
    return {
        "done": done, "refusals": refusals, "least": least, "asked": asked, "backlog": backlog,
    }  # fmt: skip


if __name__ == "__main__":
    # It hung once on a busy machine, and nobody knows where.
    faulthandler.dump_traceback_later(200, exit=True)
    ray.init(
        "local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        sys.stdout.write(json.dumps(asyncio.run(main())) + "\n")
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()
