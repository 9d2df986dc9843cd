"""The probes that KubeRay gives to Ray's containers, from Ray 2.53 on (read in 1.6.2 and 1.7.0).

A container that has a probe of its own keeps it. Pods of a RayService that are no head are ready
when Serve's proxy on them is, which the operator asks by a command: so the image must have what it
calls.
"""

from dataclasses import dataclass

from tests.k8s.manifests import Pods

# What the command calls.
TOOLS = ("bash", "wget", "grep")
_AGENT = 52365
_SERVE = 8000


@dataclass(frozen=True, kw_only=True, slots=True)
class Probes:
    """What is asked of one container of Ray.

    Attributes:
        live: Port and path of the liveness probe.
        ready: Port and path of the readiness probe of a head.
        command: The readiness probe of a worker; empty for a head.
    """

    live: tuple[int, str]
    ready: tuple[int, str] | None = None
    command: tuple[str, ...] = ()


def probes_of(pods: Pods) -> Probes:
    """The probes of a group of a RayService.

    Args:
        pods: The group; its container has none of its own.
    """
    assert pods.group is not None
    container = pods.spec["containers"][0]
    agent = int(pods.group["rayStartParams"].get("dashboard-agent-listen-port", _AGENT))
    live = (agent, "/api/healthz")
    if "groupName" not in pods.group:
        return Probes(live=live, ready=live)
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
    asked = (
        (2, agent, "api/local_raylet_healthz"),
        (10, ports.get("serve", _SERVE), "-/healthz"),
    )
    command = " && ".join(
        f"wget --tries 1 -T {seconds} -q -O- http://localhost:{port}/{path} | grep success"
        for seconds, port, path in asked
    )
    return Probes(live=live, command=("bash", "-c", command))
