"""Where the processes of a Ray node write their log: one line each, with those of the others.

Ray starts every replica and proxy as a process of its own, whose output goes to files of its
session. A node's environment says where else::

    FLOWMO_LOG_FILE=/proc/1/fd/1     what ``kubectl logs`` shows of a pod
    FLOWMO_LOG_FORMAT=json
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler

from flowmo.service.settings import LogFormat, Settings
from flowmo.service.telemetry.logs import configure_logs

FILE_VARIABLE = "FLOWMO_LOG_FILE"
logger = logging.getLogger(__name__)


def configure_process_logs(settings: Settings | None = None) -> None:
    """Send the log of this process where its node's environment says; to stderr without that.

    Args:
        settings: Form and level of the lines; without it those of the environment.
    """
    variables = os.environ
    form: LogFormat = "json" if variables.get("FLOWMO_LOG_FORMAT") == "json" else "text"
    level = variables.get("FLOWMO_LOG_LEVEL", "info").lower()
    if settings is not None:
        form, level = settings.log_format, settings.log_level
    file = variables.get(FILE_VARIABLE) or None
    try:
        with _rays_files_kept():
            configure_logs(form, level, file=file)
    except ValueError as error:
        # Whoever reads stderr shall know; a replica without that file is better than none.
        with _rays_files_kept():
            configure_logs(form, level)
        logger.warning("%s=%s cannot be written: %s", FILE_VARIABLE, file, error.__cause__ or error)


@contextmanager
def _rays_files_kept() -> Iterator[None]:
    """Give Ray's handlers their files again: to configure logging closes every handler there is.

    Ray's proxy asks its handler for the file when it says that it is ready, and fails without one.
    """
    handlers = logging.getLogger("ray.serve").handlers
    kept = [(each, each.target) for each in handlers if isinstance(each, MemoryHandler)]
    try:
        yield
    finally:
        for handler, target in kept:
            handler.setTarget(target)
