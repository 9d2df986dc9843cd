"""Which pages of other origins may call the API from a browser (CORS)."""

from collections.abc import Collection

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

_REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Flowmo-Priority",
    "Traceparent",
    "Tracestate",
    "X-Request-ID",
    "X-Request-Timeout-Seconds",
)
_ANSWER_HEADERS = (
    "ETag",
    "Flowmo-Cache",
    "Flowmo-Degraded-From",
    "Flowmo-Fingerprint",
    "Flowmo-Fit",
    "Flowmo-Fit-Source",
    "Flowmo-Fit-Target",
    "Flowmo-Guidance",
    "Flowmo-Model",
    "Flowmo-Rho",
    "Flowmo-Schedule",
    "Flowmo-Seed",
    "Flowmo-Steps",
    "Flowmo-Token-Bytes",
    "Flowmo-Upload-Size",
    "Retry-After",
    "Server-Timing",
    "X-Request-ID",
)


def allow_origins(app: FastAPI, origins: Collection[str]) -> None:
    """Let pages of some origins call an application.

    Cookies are never allowed: keys come in ``Authorization``, which a page has to know to send.

    Args:
        app: The application.
        origins: The origins, as browsers send them, or ``*``; none adds nothing.
    """
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=list(_REQUEST_HEADERS),
            expose_headers=list(_ANSWER_HEADERS),
            allow_credentials=False,
        )
