"""The process that owns the device.

    python -m flowmo.service.workers.engine_process

is started by the supervisor, which says on its standard input what to do.
"""

import time

_BEGIN = time.monotonic()  # before anything slow is imported

import asyncio  # noqa: E402
import logging  # noqa: E402
import signal  # noqa: E402

from flowmo.model.errors import FlowMoError  # noqa: E402
from flowmo.service.workers.child import ENGINE, Orders, tell, when_supervisor_ends  # noqa: E402

logger = logging.getLogger("flowmo.service.workers.engine_process")

_LOOK_SECONDS = 0.1
_SAMPLE_SECONDS = 0.2
# How often the supervisor hears that this process goes on.
_BEAT_SECONDS = 1.0


async def _serve(orders: Orders) -> int:
    from flowmo.service.loader import open_models
    from flowmo.service.reloading import reload_on_hangup
    from flowmo.service.telemetry.metrics import EngineMetrics
    from flowmo.service.workers.engine_server import EngineServer
    from flowmo.service.workers.frames import listen
    from flowmo.service.workers.metrics import SharedInstruments

    settings = orders.parsed_settings()
    metrics = EngineMetrics(SharedInstruments(orders.metrics, ENGINE))
    loop = asyncio.get_running_loop()
    asked_to_end = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, asked_to_end.set)
    when_supervisor_ends(asked_to_end.set)
    models = await asyncio.to_thread(open_models, settings, metrics)
    tell(
        loaded=[
            {
                "name": served.name,
                "image_size": served.engines.info.image_size,
                "bytes": served.engines.info.config.payload_bytes,
                "device": served.engines.info.device,
                "dtype": served.engines.info.dtype,
            }
            for served in models
        ]
    )
    ready_at: float | None = None

    def start_seconds() -> float:
        return (ready_at or time.monotonic()) - _BEGIN

    server = EngineServer(models, start_seconds)
    listening = await listen(orders.socket_of(ENGINE), server.serve)
    models.start()
    status = 0
    async with reload_on_hangup(lambda: models.reload(settings.drain_seconds)):
        sampled = beat = 0.0
        while not asked_to_end.is_set():
            if (complaint := models.complaint) is not None:
                # What is wrong with the device's process mends by another one.
                logger.critical("the engines do not work: %s", complaint)
                status = 1
                break
            if ready_at is None and models.ready:
                ready_at = time.monotonic()
                tell(ready=True)
            if time.monotonic() - sampled >= _SAMPLE_SECONDS:
                sampled = time.monotonic()
                for served in models:
                    metrics.sample(served)
            if time.monotonic() - beat >= _BEAT_SECONDS:
                beat = time.monotonic()
                tell(beat=True)
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await asked_to_end.wait()
            except TimeoutError:
                continue
    listening.close()
    await models.close(0.0 if status else settings.drain_seconds)
    return status


def main() -> None:
    """Serve until the supervisor says, or is, no more."""
    orders = Orders.read()
    from flowmo.service.telemetry.logs import configure_logs

    settings = orders.parsed_settings()
    configure_logs(settings.log_format, settings.log_level, ENGINE)
    try:
        status = asyncio.run(_serve(orders))
    except FlowMoError as error:
        tell(error=str(error))
        raise SystemExit(1) from None
    raise SystemExit(status)


if __name__ == "__main__":
    main()
