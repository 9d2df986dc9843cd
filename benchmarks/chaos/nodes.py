"""A Ray cluster of two nodes on this machine, one of which can be lost."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

_NODES = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
lost = cluster.add_node(num_cpus=2)
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(lost, allow_graceful=False)
    print("lost", flush=True)
cluster.shutdown()
"""


@dataclass(frozen=True, slots=True)
class Nodes:
    """A head and one more.

    Attributes:
        address: for ``RAY_ADDRESS``.
        lose: SIGKILL the second one's raylet, and with it all that runs there.
    """

    address: str
    lose: Callable[[], None]


@contextmanager
def two_nodes(variables: Mapping[str, str]) -> Iterator[Nodes]:
    """Start them; stop them at the end.

    Args:
        variables: Of the environment of all that runs there, beside this process' own.

    Raises:
        RuntimeError: They do not start.
    """
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", _NODES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | dict(variables),
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def lose() -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("lose\n")
        process.stdin.flush()
        process.stdout.readline()

    try:
        address = process.stdout.readline().strip()
        if not address:  # without one the application would start a cluster of its own
            raise RuntimeError("the nodes did not start; what they say is above")
        yield Nodes(address, lose)
    finally:
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
