"""A process that answers HTTP, in front of the engine process.

    python -m flowmo.service.workers.gateway_process

is started by the supervisor, which says on its standard input what to do. It does not import torch.
"""

import asyncio
import math
import os
import socket
from functools import partial

import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from flowmo.cores import usable_cores
from flowmo.model.errors import FlowMoError
from flowmo.service.engine.engines import Engines
from flowmo.service.garbage import set_aside
from flowmo.service.http.app import create_app
from flowmo.service.http.form import Form
from flowmo.service.http.image_readers import MOST_IMAGES
from flowmo.service.http.server import server_config
from flowmo.service.models import Models
from flowmo.service.settings import Settings
from flowmo.service.telemetry.logs import configure_logs
from flowmo.service.telemetry.metrics import Metrics
from flowmo.service.telemetry.tracing import export_spans
from flowmo.service.workers.child import (
    ENGINE,
    Orders,
    gateway_name,
    tell,
    when_supervisor_ends,
)
from flowmo.service.workers.engine_link import EngineLink
from flowmo.service.workers.metrics import SharedInstruments
from flowmo.service.workers.peers import answer_peers, cancel_at_peers
from flowmo.service.workers.remote_engines import ProcessEngines
from flowmo.service.workers.shared_usage import UsageTable


def share_of(settings: Settings) -> Settings:
    """One gateway's part of what one process may have, so that all together have no more.

    Args:
        settings: The server's.
    """
    workers = settings.workers
    threads = settings.image_threads or min(MOST_IMAGES * workers, usable_cores())
    return settings.model_copy(
        update={
            "max_concurrent_requests": settings.max_concurrent_requests // workers,
            "max_concurrent_bytes": settings.max_concurrent_bytes // workers,
            # Of it the items of batches are fed; the engines' own limit is the whole.
            "max_queued_requests": max(1, settings.max_queued_requests // workers),
            "cache_bytes": settings.cache_bytes // workers,
            "image_threads": math.ceil(threads / workers),
        }
    )


class _Server(uvicorn.Server):
    """Says when it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        when_supervisor_ends(self._end)
        set_aside()
        tell(listening=True)

    def _end(self) -> None:
        self.should_exit = True


async def _serve(orders: Orders, settings: Settings) -> None:
    when_supervisor_ends(lambda: os._exit(1))  # there is nothing to finish yet
    link = EngineLink(orders.socket_of(ENGINE))
    await link.start()
    builds = {
        model.name: partial(_same, ProcessEngines(link, number))
        for number, model in enumerate(link.models)
    }
    others = [n for n in range(settings.workers) if n != orders.number]
    table = UsageTable(orders.usage, orders.number, settings.workers)
    app = create_app(
        Models(builds),
        Metrics(SharedInstruments(orders.metrics, orders.name), engines_elsewhere=True),
        share_of(settings),
        form=Form.WORKERS,
        cancel_elsewhere=cancel_at_peers([orders.socket_of(gateway_name(n)) for n in others]),
        usage=table.usage,
    )
    peers = await answer_peers(orders.socket_of(orders.name), app.state.service.requests.cancel)
    config = server_config(app, settings)
    listener = socket.socket(fileno=orders.listener)
    try:
        await _Server(config).serve(sockets=[listener])
    finally:
        peers.close()
        await link.close()


def _same(engines: Engines) -> Engines:
    return engines


def main() -> None:
    """Answer until the supervisor says, or is, no more."""
    orders = Orders.read()
    settings = orders.parsed_settings()
    configure_logs(settings.log_format, settings.log_level, orders.name)
    try:
        export_spans()
        with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
            runner.run(_serve(orders, settings))
    except FlowMoError as error:
        tell(error=str(error))
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
