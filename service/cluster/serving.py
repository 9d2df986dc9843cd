"""A cluster of this machine's own, or one that is there, from start to graceful end."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import ray
from ray import serve

from flowmo.service.cluster.app import APPLICATION, build
from flowmo.service.cluster.config import ClusterConfig
from flowmo.service.cluster.proxy import ProxyLimits

logger = logging.getLogger(__name__)


def run(
    read: Callable[[], ClusterConfig],
    host: str,
    port: int,
    *,
    announce: Callable[[], None],
    cpus: float | None = None,
) -> None:
    """Serve until ^C or SIGTERM; what has begun is finished.

    At SIGHUP the config is read again and deployed, replica after replica.

    Args:
        read: Gives the whole cluster's configuration.
        host: The address that the HTTP proxies listen on.
        port: The port that the HTTP proxies listen on.
        announce: Called when requests are answered.
        cpus: Processors that this machine's own cluster may share out; not for one that is there.

    Raises:
        RuntimeError: The application could not be started.
    """
    config = read()
    address = os.environ.get("RAY_ADDRESS")
    if not address:  # the environment of this machine's own nodes is this process's
        os.environ |= ProxyLimits.of(config.gateway_settings()).to_environment()
    own: dict[str, Any] = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    # Without an address Ray would join a cluster that happens to run on this machine.
    ray.init(address=address or "local", log_to_driver=False, **own)
    came: SimpleQueue[int] = SimpleQueue()
    # After ray.init, which has handlers of its own.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: came.put(number))
    deploying = threading.Lock()
    try:
        serve.start(
            http_options={
                "host": host,
                "port": port,
                # The gateway's own deadline comes first, and its answer says more.
                "request_timeout_s": config.gateway_settings().max_deadline_seconds + 5.0,
            }
        )
        serve.run(build(config), name=APPLICATION, route_prefix="/")
        announce()
        while came.get() == signal.SIGHUP:
            # In a thread, so that the end need not wait for an update.
            threading.Thread(target=_deploy_again, args=(read, deploying), daemon=True).start()
    finally:
        # First the application alone: its replicas finish what they have while the proxies, which
        # carry the answers, still live. A cluster of others goes on without it.
        serve.delete(APPLICATION)
        if not address:
            serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def _deploy_again(read: Callable[[], ClusterConfig], deploying: threading.Lock) -> None:
    with deploying:
        try:
            serve.run(build(read()), name=APPLICATION, route_prefix="/")
        except Exception:
            logger.exception("the application was not deployed again; it goes on as it was")
