"""What a Ray node does before its pod ends: its replicas and proxy go first, and finish.

    python3 -m flowmo.service.cluster.leaving SECONDS [RAYLET]

After SIGTERM a Ray node lives half a minute, whatever its pod's grace is, and what its replicas
have not answered by then is lost. So this runs before SIGTERM (``preStop``): it tells the cluster
that the node is about to go, Serve starts other replicas elsewhere and ends those here as it does
in an update, and the hook returns when none is left, or after SECONDS. RAYLET is the process id of
the node's raylet; a pod has only one.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Until load balancers know that the pod takes no requests any more.
LEAST_SECONDS = 5.0
_LOOK_EVERY = 0.5
_OPTION = re.compile(r"--[\w-]+=")
# How Ray calls the processes of Serve's replicas and of its HTTP proxy.
_SERVING = ("ray::ServeReplica:", "ray::ProxyActor", "ray::SERVE_PROXY_ACTOR")


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A Ray node of this machine.

    Attributes:
        pid: The process id of its raylet, whose children the node's workers are.
        id: Ray's name of it, hexadecimal.
        address: Host and port of the cluster's GCS.
    """

    pid: int
    id: str
    address: str


def nodes(proc: Path = Path("/proc")) -> Iterator[Node]:
    """The Ray nodes whose raylets run here."""
    for pid, command in _commands(proc):
        program, *arguments = command.split("\0")
        if not program.endswith("/raylet"):
            continue
        # Its own, not those of the commands that it starts, which are arguments, too.
        found = dict(word[2:].split("=", 1) for word in arguments if _OPTION.match(word))
        address = found.get("gcs-address") or found.get("gcs_address")
        if address and "node_id" in found:
            yield Node(pid=pid, id=found["node_id"], address=address)


def serving(node: Node, proc: Path = Path("/proc")) -> list[str]:
    """The replicas and proxies that still run on a node."""
    found = []
    for pid, command in _commands(proc):
        if command.startswith(_SERVING):
            try:
                parent = int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has just ended
                continue
            if parent == node.pid:
                found.append(command.split("\0")[0])
    return found


def leave(
    node: Node,
    seconds: float,
    *,
    still: Callable[[Node], list[str]] = serving,
    announce: Callable[[Node, float], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Announce that a node goes, and wait until nothing serves on it.

    Args:
        node: The node.
        seconds: The longest wait; above what a replica may take to finish.
        still: What serves on it.
        announce: Tells the cluster; ``ray drain-node`` by default.
        clock: Gives the time, in seconds.
        sleep: Waits.

    Returns:
        Whether nothing is left.
    """
    begin = clock()
    (announce or drain)(node, seconds)
    while (waited := clock() - begin) < seconds:
        if waited >= LEAST_SECONDS and not still(node):
            return True
        sleep(_LOOK_EVERY)
    return not still(node)


def drain(node: Node, seconds: float) -> None:
    """Tell the cluster that the node goes in so many seconds: no new work comes, Serve moves away.

    Args:
        node: The node.
        seconds: Until it goes.
    """
    # Of this environment, which need not be on the PATH of what runs the hook.
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "drain-node", "--address", node.address, "--node-id", node.id]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "its pod ends"]
    command += ["--deadline-remaining-seconds", str(int(seconds))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode:  # the head may be away; then what has begun gets the time all the same
        sys.stderr.write(ended.stderr[-1000:])


def main(arguments: list[str]) -> int:
    """The command; 0 also where there is no node any more, for its pod is going anyway."""
    seconds, chosen = float(arguments[0]), [int(text) for text in arguments[1:]]
    found = [node for node in nodes() if not chosen or node.pid in chosen]
    if len(found) != 1:
        sys.stderr.write(f"{len(found)} Ray nodes are here, expected one; nothing is done\n")
        return 0
    leave(found[0], seconds)
    return 0


def _commands(proc: Path) -> Iterator[tuple[int, str]]:
    for folder in proc.iterdir():
        if folder.name.isdigit():
            try:
                yield int(folder.name), (folder / "cmdline").read_bytes().decode(errors="replace")
            except OSError:  # it has just ended
                continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
