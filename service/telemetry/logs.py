"""Log lines: for people, or one JSON object each; with the request they belong to.

Bodies, keys and query strings are in none of them.
"""

import logging
import logging.config
import sys
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from http import HTTPStatus
from types import TracebackType
from typing import Any
from urllib.parse import quote

from flowmo.service.settings import LogFormat
from flowmo.service.telemetry.tracing import trace_id

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

logger = logging.getLogger(__name__)
access = logging.getLogger("flowmo.access")

# Asked every few seconds by machines.
_QUIET_ROUTES = {"/healthz", "/readyz", "/metrics"}


class RequestFilter(logging.Filter):
    """Adds to a record the id and the trace of the request that is being answered.

    Args:
        worker: The name of this process among those of one server; empty if it is alone.
    """

    def __init__(self, worker: str = "") -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        """See :meth:`logging.Filter.filter`."""
        if (current := request_id.get()) is not None:
            record.request_id = current
        if (trace := trace_id()) is not None:
            record.trace_id = trace
        if self._worker:
            record.worker = self._worker
        return True


def log_answer(
    *,
    method: str,
    path: str,
    route: str,
    status: int,
    seconds: float,
    key: str | None,
    headers: Mapping[str, str],
    problem: str | None = None,
    upload_seconds: float | None = None,
) -> None:
    """Write the access log's line of one request.

    Args:
        method: The HTTP method.
        path: The path, without the query.
        route: The template of the route.
        status: The status of the answer; 499 is a client that left.
        seconds: The time from the request's first byte to the answer's last.
        key: The name of the API key; None without one.
        headers: The headers of the answer.
        problem: The code of the problem that the answer is; None if it is none.
        upload_seconds: The time until the request's body was whole; None if none was read.
    """
    level = logging.DEBUG if route in _QUIET_ROUTES else logging.INFO
    if not access.isEnabledFor(level):
        return
    fields: dict[str, Any] = {
        "method": method,
        "path": path,
        "route": route,
        "status": status,
        "duration_ms": round(seconds * 1e3, 2),
        "outcome": problem or ("failed" if status >= HTTPStatus.BAD_REQUEST else "ok"),
    }
    if upload_seconds is not None:
        fields["upload_ms"] = round(upload_seconds * 1e3, 2)
    if key is not None:
        fields["key"] = key
    if "flowmo-model" in headers:
        fields["model"] = headers["flowmo-model"]
    if "flowmo-fingerprint" in headers:
        fields["fingerprint"] = headers["flowmo-fingerprint"]
    if "server-timing" in headers:
        fields["stages_ms"] = stages_of(headers["server-timing"])
    text = "%s %s %d %.1f ms"
    # A path may hold a line feed, and what looks like a line of ours after it.
    access.log(level, text, method, quote(path), status, fields["duration_ms"], extra=fields)


def stages_of(server_timing: str) -> dict[str, float]:
    """The milliseconds of each stage, from a ``Server-Timing`` header that this server wrote."""
    entries = (entry.strip().partition(";dur=") for entry in server_timing.split(","))
    return {name: float(value) for name, _, value in entries if value}


def configure_logs(
    format: LogFormat, level: str, worker: str = "", *, file: str | None = None
) -> None:
    """Send to the log whatever this process would write to stderr, from now on.

    Warnings, and errors that nobody caught, come as log lines too: where each line is read as JSON,
    one that is not is lost.

    Args:
        format: The form of the lines.
        level: The least severe level that is shown, in lower case.
        worker: The name of this process among those of one server; empty if it is alone.
        file: A file that lines are added to, instead of stderr.

    Raises:
        ValueError: The file cannot be written.
    """
    logging.config.dictConfig(log_config(format, level, worker, file=file))
    logging.captureWarnings(True)

    def uncaught(
        kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not issubclass(kind, KeyboardInterrupt | SystemExit):
            logger.critical("an error that nobody caught", exc_info=(kind, error, trace))

    sys.excepthook = uncaught
    threading.excepthook = lambda args: uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def log_config(
    format: LogFormat, level: str, worker: str = "", *, file: str | None = None
) -> dict[str, Any]:
    """Make the argument of ``logging.config.dictConfig``: everything goes to one place.

    Args:
        format: The form of the lines: text for people, or a JSON object each.
        level: The least severe level that is shown, in lower case.
        worker: The name of this process among those of one server; empty if it is alone.
        file: A file that lines are added to; stderr without one.
    """
    place: dict[str, Any] = {"class": "logging.StreamHandler", "stream": "ext://sys.stderr"}
    if file is not None:
        place = {"class": "logging.FileHandler", "filename": file, "encoding": "utf-8"}
    text = {
        "()": "uvicorn.logging.DefaultFormatter",
        "fmt": f"%(levelprefix)s {f'{worker}: ' if worker else ''}%(message)s",
        "use_colors": None,
    }
    json = {
        "()": "pythonjsonlogger.json.JsonFormatter",
        "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s",
        "datefmt": "%Y-%m-%dT%H:%M:%S%z",
        "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
    }
    shown = level.upper()
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request": {"()": RequestFilter, "worker": worker}},
        "formatters": {"lines": text if format == "text" else json},
        "handlers": {
            "place": place | {"formatter": "lines", "filters": ["request"]},
        },
        "root": {"handlers": ["place"], "level": "WARNING"},
        "loggers": {
            "flowmo": {"level": shown},
            "uvicorn": {"level": shown},
            # Ours has the request's id, key and stages.
            "uvicorn.access": {"level": "CRITICAL", "propagate": False},
        },
    }
