"""Who must reach whom through the network policies, or nothing works. Rules yield what is cut."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.k8s.manifests import Manifest, Pods, of_kind, pods, ray_service, selects

Port = int | str


@dataclass(frozen=True, slots=True)
class Namespace:
    """Whoever is in another namespace, such as ``kube-system``."""

    name: str


@dataclass(frozen=True, slots=True)
class Anybody:
    """Addresses that nothing is known of: clients of the service, stores, Kubernetes' API."""

    name: str


Peer = Pods | Namespace | Anybody


def reaches(
    manifests: list[Manifest], source: Peer, target: Peer, port: Port, protocol: str = "TCP"
) -> bool:
    """Whether all policies together let a connection through.

    Args:
        manifests: With the policies.
        source: Who connects.
        target: To whom.
        port: Number or name; of the target's containers, if it is a pod of ours.
        protocol: TCP or UDP.
    """
    names = _names(target, port)
    return _passes(manifests, source, target, "Egress", names, protocol) and _passes(
        manifests, target, source, "Ingress", names, protocol
    )


def _names(target: Peer, port: Port) -> set[Port]:
    """All that a port is called."""
    found: set[Port] = {port}
    if isinstance(target, Pods):
        for container in target.containers:
            for one in container.get("ports", ()):
                if port in (one.get("name"), one["containerPort"]):
                    found |= {one["containerPort"], one.get("name", port)}
    return found


def _passes(
    manifests: list[Manifest], own: Peer, other: Peer, way: str, ports: set[Port], protocol: str
) -> bool:
    if not isinstance(own, Pods):  # policies of others are not ours
        return True
    covering = [
        policy["spec"]
        for policy in of_kind(manifests, "NetworkPolicy")
        if way in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], own.labels)
    ]
    side = "to" if way == "Egress" else "from"
    return not covering or any(
        _peer_is(rule.get(side, []), other) and _port_is(rule.get("ports", []), ports, protocol)
        for spec in covering
        for rule in spec.get(way.lower(), ())
    )


def _peer_is(peers: list[Manifest], other: Peer) -> bool:
    if not peers:
        return True
    for peer in peers:
        if "ipBlock" in peer:
            continue
        namespace, pod = peer.get("namespaceSelector"), peer.get("podSelector")
        if isinstance(other, Pods):
            if namespace is None and selects(pod or {}, other.labels):
                return True
        elif isinstance(other, Namespace):
            labels = {"kubernetes.io/metadata.name": other.name}
            if namespace is not None and pod is None and selects(namespace, labels):
                return True
    return False


def _port_is(allowed: list[Manifest], ports: set[Port], protocol: str) -> bool:
    return not allowed or any(
        one.get("port", next(iter(ports))) in ports and one.get("protocol", "TCP") == protocol
        for one in allowed
    )


def flows(manifests: list[Manifest]) -> Iterator[str]:
    """All that must pass does."""
    for name, source, target, port, protocol in _required(manifests):
        if not reaches(manifests, source, target, port, protocol):
            yield f"{name}: {_called(source)} does not reach {_called(target)}, port {port}"


def _called(peer: Peer) -> str:
    return peer.owner if isinstance(peer, Pods) else peer.name


def _required(manifests: list[Manifest]) -> Iterator[tuple[str, Peer, Peer, Port, str]]:
    everybody = list(pods(manifests))
    ray = [found for found in everybody if found.group is not None]
    strangers = Anybody("everybody")
    for source in ray:
        for target in ray:
            # Workers take ports as they come.
            yield "Ray's nodes", source, target, 34567, "TCP"
    for found in everybody:
        if any(_asks_names(found)):
            for protocol in ("UDP", "TCP"):
                yield "names", found, Namespace("kube-system"), 53, protocol
                yield "names", found, Namespace("openshift-dns"), 5353, protocol
        for container in found.containers:
            if container.get("args", [""])[0] == "fetch":
                yield "weights", found, Anybody("a store of checkpoints"), 443, "TCP"
    yield from _of_the_head(manifests, ray)
    yield from _fronts(everybody, strangers)
    yield from _scrapes(manifests, everybody)


def _of_the_head(
    manifests: list[Manifest], ray: list[Pods]
) -> Iterator[tuple[str, Peer, Peer, Port, str]]:
    spec = ray_service(manifests)
    if spec is not None:
        head = next(found for found in ray if "groupName" not in (found.group or {}))
        for port in (443, 6443):
            yield "autoscaler", head, Anybody("Kubernetes' API"), port, "TCP"
        yield "operator", Namespace("kuberay-system"), head, "dashboard", "TCP"
        address = spec["rayClusterConfig"]["gcsFaultToleranceOptions"]["redisAddress"]
        name, _, number = address.partition(":")
        for target in behind(manifests, name, int(number)):
            yield "Redis", head, target, int(number), "TCP"


def _scrapes(
    manifests: list[Manifest], everybody: list[Pods]
) -> Iterator[tuple[str, Peer, Peer, Port, str]]:
    monitoring = Namespace("monitoring")
    for monitor in of_kind(manifests, "PodMonitor"):
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            for found in everybody:
                if selects(monitor["spec"]["selector"], found.labels) and endpoint["port"] in {
                    port["name"]
                    for container in found.containers
                    for port in container.get("ports", ())
                }:
                    yield "metrics", monitoring, found, endpoint["port"], "TCP"


def _asks_names(found: Pods) -> Iterator[bool]:
    """Ray's nodes ask for the head, the edge for Ray's proxies, jobs for stores."""
    yield found.group is not None
    for container in found.containers:
        yield container.get("args", [""])[0] == "fetch"
        yield "EDGE_UPSTREAM" in str(container.get("env", ""))


def _fronts(
    everybody: list[Pods], strangers: Anybody
) -> Iterator[tuple[str, Peer, Peer, Port, str]]:
    edges = [found for found in everybody if "EDGE_UPSTREAM" in str(found.spec)]
    workers = [found for found in everybody if found.group and "groupName" in found.group]
    fronts = edges or workers or [f for f in everybody if f.owner.startswith("Deployment/")]
    if not fronts:
        return
    port = "serve" if fronts == workers else "http"
    for found in fronts:
        yield "clients", strangers, found, port, "TCP"
    for edge in edges:
        for worker in workers:
            yield "edge", edge, worker, "serve", "TCP"


def behind(manifests: list[Manifest], name: str, port: int) -> list[Pods]:
    """The pods of a Service's port."""
    for service in of_kind(manifests, "Service"):
        numbers = [one["port"] for one in service["spec"]["ports"]]
        if service["metadata"]["name"] == name and port in numbers:
            selector = {"matchLabels": service["spec"]["selector"]}
            return [found for found in pods(manifests) if selects(selector, found.labels)]
    return []


def services(manifests: list[Manifest]) -> Iterator[str]:
    """Each address that something is told of is a Service that is there."""
    spec = ray_service(manifests)
    if spec is not None:
        address = spec["rayClusterConfig"]["gcsFaultToleranceOptions"]["redisAddress"]
        name, _, number = address.partition(":")
        if not number.isdigit() or not behind(manifests, name, int(number)):
            yield f"Redis: {address} is no Service with a pod behind it"
    # The operator makes them, each of a RayService.
    proxies = [
        f"{one['metadata']['name']}-serve-svc:8000" for one in of_kind(manifests, "RayService")
    ]
    for found in pods(manifests):
        for container in found.containers:
            for one in container.get("env", ()):
                if one["name"] == "EDGE_UPSTREAM" and one["value"] not in proxies:
                    yield f"{found.owner}: {one['value']} is not the operator's Service of proxies"
