"""SIGHUP: read again what may have changed, as daemons do."""

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

logger = logging.getLogger(__name__)


@asynccontextmanager
async def reload_on_hangup(reload: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Call ``reload`` at each SIGHUP while the block runs; signals that come meanwhile count once.

    Outside the main thread, where Python takes no signals, it does nothing.

    Args:
        reload: what it raises is logged.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = asyncio.Event()

    async def serve() -> None:
        while True:
            await asked.wait()
            asked.clear()
            try:
                await reload()
            except Exception:
                logger.exception("reloading failed; everything goes on as it was")

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, asked.set)
    task = asyncio.create_task(serve())
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        task.cancel()
        await asyncio.wait({task})
