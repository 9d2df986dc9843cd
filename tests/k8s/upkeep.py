"""Scaling, draining, updates and monitoring do their work. Each rule yields what does not."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.k8s.manifests import K8S, Manifest, of_kind, pods, quantity, ray_service, selects

# Seconds of waiting work a pod at which scaling up is neither noise nor too late.
_TARGETS = (0.2, 10.0)
_PRODUCTION = "NVIDIA"


def budgets(manifests: list[Manifest]) -> Iterator[str]:
    """Budgets let nodes drain, and leave something.

    Kubernetes asks a scale subresource how many pods there should be, unless the budget is a number
    of pods that must stay; RayCluster has none, and then no pod may be evicted at all.
    """
    spec = ray_service(manifests)
    workers = [] if spec is None else spec["rayClusterConfig"]["workerGroupSpecs"]
    labels = [group["template"]["metadata"]["labels"] for group in workers]
    groups = {own["part"]: group["minReplicas"] for own, group in zip(labels, workers, strict=True)}
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        name, asked = budget["metadata"]["name"], budget["spec"]
        least, most = asked.get("minAvailable"), asked.get("maxUnavailable")
        for found in pods(manifests):
            if not selects(asked["selector"], found.labels):
                continue
            if found.group is not None:
                if most is not None or not isinstance(least, int):
                    yield f"{name}: RayCluster has no scale; say a number of pods in minAvailable"
                elif least >= groups.get(found.labels["part"], 0):
                    yield f"{name}: {least} of the fewest pods must stay, so no node ever drains"
                elif least < 1:
                    yield f"{name}: nothing must stay"
            elif most is not None and str(most) in {"0", "0%"}:
                yield f"{name}: no pod may go, so no node ever drains"
    if spec is not None and budgets_are_due(manifests):
        chosen = [b["spec"]["selector"] for b in of_kind(manifests, "PodDisruptionBudget")]
        for own in labels:
            if not any(selects(one, own) for one in chosen):
                yield f"{own['part']}: no budget, and a drain may take all pods of it"


def budgets_are_due(manifests: list[Manifest]) -> bool:
    """Whether this is production: it is on GPUs."""
    return _PRODUCTION in str([found.spec.get("nodeSelector") for found in pods(manifests)])


def rollouts(manifests: list[Manifest]) -> Iterator[str]:
    """A Deployment can be exchanged, and never has fewer pods than it should."""
    for deployment in of_kind(manifests, "Deployment"):
        rolling = deployment["spec"].get("strategy", {}).get("rollingUpdate")
        if rolling is None:
            continue
        if str(rolling["maxUnavailable"]) != "0":
            yield f"{deployment['metadata']['name']}: an update takes pods before others are ready"
        if str(rolling["maxSurge"]) in {"0", "0%"}:
            yield f"{deployment['metadata']['name']}: an update can neither add nor take a pod"


def autoscaling(manifests: list[Manifest]) -> Iterator[str]:
    """What may grow is scaled by somebody, at a sensible target."""
    for scaler in of_kind(manifests, "HorizontalPodAutoscaler"):
        for metric in scaler["spec"]["metrics"]:
            target = metric.get("pods", {}).get("target", {})
            if target.get("type") != "AverageValue":
                yield "the autoscaler's target is no average of a pod"
                continue
            yield from _target(manifests, metric["pods"]["metric"]["name"], target["averageValue"])
        if scaler["spec"]["minReplicas"] < 2:
            yield "one pod at least, and none while it is replaced"
    spec = ray_service(manifests)
    if spec is not None:
        yield from _rays_autoscaler(spec["rayClusterConfig"])


def _target(manifests: list[Manifest], metric: str, text: str) -> Iterator[str]:
    number = quantity(text)
    if metric == "flowmo_backlog_seconds" and not _TARGETS[0] <= number <= _TARGETS[1]:
        yield f"the autoscaler's target is {number:g} s of waiting work a pod"
    if metric == "flowmo_requests_admitted":
        for deployment in of_kind(manifests, "Deployment"):
            (container,) = deployment["spec"]["template"]["spec"]["containers"]
            env = {one["name"]: one.get("value") for one in container.get("env", ())}
            most = float(env.get("FLOWMO_MAX_CONCURRENT_REQUESTS") or 0)
            if container["image"].startswith("flowmo-serve") and not 0 < number <= 0.7 * most:
                yield f"{number:g} requests a pod are too near to {most:g}, where pods refuse"


def _rays_autoscaler(cluster: Manifest) -> Iterator[str]:
    """Ray's own: it is there, is restricted as pods are, and has somewhere to write."""
    grows = [g for g in cluster["workerGroupSpecs"] if g["maxReplicas"] > g["minReplicas"]]
    if grows and not cluster.get("enableInTreeAutoscaling"):
        yield f"{grows[0]['groupName']} may grow, and nobody scales it"
    options = cluster["autoscalerOptions"]
    own = options.get("securityContext", {})
    if not own.get("runAsNonRoot") or not own.get("runAsUser"):
        yield "the autoscaler may run as root"
    if own.get("allowPrivilegeEscalation") is not False or not own.get("readOnlyRootFilesystem"):
        yield "the autoscaler is not restricted"
    if own.get("capabilities", {}).get("drop") != ["ALL"]:
        yield "the autoscaler has capabilities"
    paths = {mount["mountPath"] for mount in options.get("volumeMounts", ())}
    if "/tmp" not in paths:
        yield "the autoscaler has nowhere to write: /tmp is no mount"
    wanted, limits = (options.get("resources", {}).get(k, {}) for k in ("requests", "limits"))
    if not {"cpu", "memory"} <= set(wanted) or wanted.get("memory") != limits.get("memory"):
        yield "the autoscaler does not say what it needs"


def monitoring(manifests: list[Manifest]) -> Iterator[str]:
    """Where there is a monitor, every pod with series is scraped, and the rules are there."""
    monitors = of_kind(manifests, "PodMonitor")
    if not monitors:
        return
    for found in pods(manifests):
        for container in found.containers:
            if not container["image"].startswith("flowmo-serve"):
                continue
            exported = {"metrics", *(["http"] if found.group is None else [])}
            named = {port["name"] for port in container.get("ports", ())}
            is_node = found.group is not None and container is found.spec["containers"][0]
            if is_node and "metrics" not in named:
                yield f"{found.owner}: has no port metrics to be scraped"
            for port in container.get("ports", ()):
                if port["name"] in exported and not any(
                    _scrapes(monitor["spec"], found.labels, port["name"]) for monitor in monitors
                ):
                    yield f"{found.owner}: nobody scrapes its port {port['name']}"
    for name in ("recording", "alerts"):
        source = K8S / "components" / "rules" / f"{name}.yaml"
        wanted = yaml.safe_load(source.read_text(encoding="utf-8"))["spec"]
        rules = [_without_links(rule["spec"]) for rule in of_kind(manifests, "PrometheusRule")]
        if _without_links(wanted) not in rules:
            yield f"the rules {name} are not there, or are others"
    yield from _found_by_people(manifests, monitors)


def _found_by_people(manifests: list[Manifest], monitors: list[Manifest]) -> Iterator[str]:
    """Links of alerts can be opened, and the usual Prometheus takes rules and monitors."""

    for rule in of_kind(manifests, "PrometheusRule"):
        for group in rule["spec"]["groups"]:
            for one in group["rules"]:
                link = one.get("annotations", {}).get("runbook_url", "https://")
                if not re.match(r"https://", link):
                    yield f"{one['alert']}: {link} is no address that a person can open"
    for found in (*monitors, *of_kind(manifests, "PrometheusRule")):
        if "release" not in found["metadata"]["labels"]:
            yield f"{found['metadata']['name']}: the common stack's Prometheus does not take it"


def _without_links(spec: Manifest) -> Manifest:
    """Rules without the links that kustomize makes whole."""
    spec = copy.deepcopy(spec)
    for group in spec["groups"]:
        for rule in group["rules"]:
            rule.get("annotations", {}).pop("runbook_url", None)
    return spec


def _scrapes(spec: Manifest, labels: dict[str, str], port: str) -> bool:
    return selects(spec["selector"], labels) and any(
        one["port"] == port and one.get("path", "/metrics") == "/metrics"
        for one in spec["podMetricsEndpoints"]
    )


def adapter(rules: dict[str, Any], metric: str) -> Iterator[str]:
    """Prometheus' adapter gives the autoscaler's metric of each pod.

    Args:
        rules: Values of the adapter's chart.
        metric: What the autoscaler asks for.
    """
    for rule in rules["rules"]["custom"]:
        if rule["seriesQuery"].partition("{")[0] != metric:
            continue
        resources = rule["resources"]["overrides"]
        for label in ("namespace", "pod"):
            if resources.get(label, {}).get("resource") != label:
                yield f"the adapter gives {metric} of no {label}"
            if f'{label}!=""' not in rule["seriesQuery"]:
                yield f"the adapter asks for series without {label}"
        if "by (<<.GroupBy>>)" not in rule["metricsQuery"]:
            yield f"the adapter adds {metric} up over pods"
        return
    yield f"the adapter does not give {metric}"
