"""How uvicorn serves an application, whichever process it is in."""

import uvicorn
from fastapi import FastAPI

from flowmo.service.http.connections import ConnectionLimits, limited_protocol
from flowmo.service.settings import Settings


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """The server's config, with the operator's limits of connections.

    Args:
        app: What is served; its log is configured already, and has a line for each request.
        settings: The operator's settings.
    """
    limits = ConnectionLimits(
        header_bytes=settings.max_header_bytes,
        header_seconds=settings.header_seconds,
        send_seconds=settings.send_seconds,
    )
    return uvicorn.Config(
        app,
        http=limited_protocol(limits),
        log_level=settings.log_level,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(settings.drain_seconds),
    )
