"""A cluster of this machine's own, or one that is there, from start to graceful end."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import ray
from ray import serve

from flowmo.service.cluster.app import APPLICATION, build
from flowmo.service.cluster.config import ClusterConfig

logger = logging.getLogger(__name__)


def run(
    config: ClusterConfig,
    host: str,
    port: int,
    *,
    announce: Callable[[], None],
    cpus: float | None = None,
) -> None:
    """Serve until ^C or SIGTERM; what has begun is finished.

    Args:
        config: The whole cluster's configuration.
        host: The address that the HTTP proxies listen on.
        port: The port that the HTTP proxies listen on.
        announce: Called when requests are answered.
        cpus: The cores that this machine's own cluster may share out; unused where a cluster is
            there already.

    Raises:
        RuntimeError: The application could not be started.
    """
    address = os.environ.get("RAY_ADDRESS")
    own: dict[str, Any] = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    ray.init(address=address, log_to_driver=False, **own)
    ended = threading.Event()
    # After ray.init, which has handlers of its own.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
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
        ended.wait()
    finally:
        # First the application alone: its replicas finish what they have while the proxies, which
        # carry the answers, still live. A cluster of others goes on without it.
        serve.delete(APPLICATION)
        if not address:
            serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()
