"""Rules of what components add: whole or not at all. Each yields what is wrong."""

import re
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from tests.k8s import flows
from tests.k8s.manifests import Manifest, Pods, of_kind, pods, quantity, selects

PULL_SECRET = "flowmo-registry"
# The burn rate that pages.
_BURNS_FAST = "14.4"
_LONGEST = {"FLOWMO_MAX_DEADLINE_SECONDS", "EDGE_SERVER_SECONDS"}
_BUILT_IN = {"system-node-critical", "system-cluster-critical"}
_UPKEEP = ("DaemonSet/", "Job/")
_OF_THE_CLUSTER = {
    "Namespace",
    "PriorityClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


def digests(manifests: list[Manifest]) -> Iterator[str]:
    """Where a policy asks for digests, every image has one, and the policy asks this namespace."""
    policies = of_kind(manifests, "ValidatingAdmissionPolicy")
    if not policies:
        return
    for found in pods(manifests):
        for container in found.containers:
            if not re.search(r"@sha256:[0-9a-f]{64}$", container["image"]):
                yield f"{found.owner}: {container['image']} has no digest, and would be refused"
    bindings = of_kind(manifests, "ValidatingAdmissionPolicyBinding")
    names = {one["metadata"]["name"] for one in of_kind(manifests, "Namespace")}
    for policy in policies:
        asked = [
            one["spec"]
            for one in bindings
            if one["spec"]["policyName"] == policy["metadata"]["name"]
            and "Deny" in one["spec"]["validationActions"]
        ]
        for name in names:
            labels = {"kubernetes.io/metadata.name": name}
            if not any(
                selects(one["matchResources"]["namespaceSelector"], labels) for one in asked
            ):
                yield f"{policy['metadata']['name']} refuses nothing in {name}"


def pull_secrets(manifests: list[Manifest]) -> Iterator[str]:
    """All pods name the registry's secret, or none does: one without it never starts."""
    named = {
        found.owner: [one["name"] for one in found.spec.get("imagePullSecrets", ())]
        for found in pods(manifests)
    }
    if not any(named.values()):
        return
    for owner, secrets in named.items():
        if secrets != [PULL_SECRET]:
            yield f"{owner}: pulls with {secrets or 'nothing'}, and others with {PULL_SECRET}"


def priorities(manifests: list[Manifest]) -> Iterator[str]:
    """Each priority is a class that there is; what serves is above what can wait."""
    classes = {one["metadata"]["name"]: one for one in of_kind(manifests, "PriorityClass")}
    found = {one.owner: one.spec.get("priorityClassName") for one in pods(manifests)}
    if not classes and not any(found.values()):
        return
    for owner, name in found.items():
        if name is None:
            yield f"{owner}: no priority, and goes before all that have one"
        elif name not in classes and name not in _BUILT_IN:
            yield f"{owner}: there is no class {name}"
    for one in classes.values():
        if one.get("globalDefault"):
            yield f"{one['metadata']['name']} is the default of the whole cluster"
    values = {owner: classes[name]["value"] for owner, name in found.items() if name in classes}
    serving = [value for owner, value in values.items() if not owner.startswith(_UPKEEP)]
    for owner, value in values.items():
        if owner.startswith(_UPKEEP) and value >= min(serving, default=value + 1):
            yield f"{owner}: what can wait is not below what serves"


def quotas(manifests: list[Manifest]) -> Iterator[str]:
    """Whoever counts in a store reaches it, and all that let requests in count in the same."""
    told: dict[str, str] = {}
    for found in pods(manifests):
        store = _store_of(found)
        lets_in = found.owner == "Deployment/flowmo" or found.labels.get("part") == "gateway"
        if store or lets_in:
            told[found.owner] = store
    if not any(told.values()):
        return
    for found in pods(manifests):
        if found.owner in told:
            yield from _is_counted(manifests, found, urlsplit(told[found.owner]))
    if len(set(told.values())) > 1:
        yield f"gateways count in different stores: {told}"


def _store_of(found: Pods) -> str:
    variables = [one for c in found.containers for one in c.get("env", ())]
    return next((one["value"] for one in variables if one["name"] == "FLOWMO_QUOTA_STORE"), "")


def _is_counted(manifests: list[Manifest], found: Pods, url: SplitResult) -> Iterator[str]:
    if url.path in {"", "/", "/0"}:
        yield f"{found.owner}: {url.geturl() or 'no store'}: database 0 is Ray's own"
    port = url.port or 6379
    behind = flows.behind(manifests, url.hostname or "", port)
    if not behind:
        yield f"{found.owner}: {url.hostname} is no Service with a pod behind it"
    for target in behind:
        if not flows.reaches(manifests, found, target, port):
            yield f"{found.owner} does not reach {target.owner}"
    if not flows.reaches(manifests, found, flows.Namespace("kube-system"), 53, "UDP"):
        yield f"{found.owner} cannot ask for the name {url.hostname}"


def canary(manifests: list[Manifest]) -> Iterator[str]:
    """A canary gets its share through the route, is judged by the objectives, and can end."""
    for rollout in of_kind(manifests, "Rollout"):
        spec, name = rollout["spec"], rollout["metadata"]["name"]
        strategy = spec["strategy"]["canary"]
        yield from _is_scaled(manifests, rollout)
        services = [strategy["stableService"], strategy["canaryService"]]
        yield from _is_routed(manifests, rollout, services)
        steps = strategy["steps"]
        weights = [step["setWeight"] for step in steps if "setWeight" in step]
        if weights != sorted(weights) or weights[0] > 10:
            yield f"{name}: weights {weights} do not begin small and grow"
        if any(
            "pause" not in after
            for step, after in zip(steps, [*steps[1:], {}], strict=True)
            if "setWeight" in step
        ):
            yield f"{name}: a weight is not held for a while"
        yield from _is_judged(manifests, strategy.get("analysis"))


def _is_scaled(manifests: list[Manifest], rollout: Manifest) -> Iterator[str]:
    name, spec = rollout["metadata"]["name"], rollout["spec"]
    workload = f"{spec['workloadRef']['kind']}/{spec['workloadRef']['name']}"
    templates = [found for found in pods(manifests) if found.owner == workload]
    if not templates:
        yield f"{name}: {workload} is not there"
    for found in templates:
        if not selects(spec["selector"], found.labels):
            yield f"{name}: its selector is not that of {workload}"
        grace = found.spec.get("terminationGracePeriodSeconds", 30)
        for delay in ("abortScaleDownDelaySeconds", "scaleDownDelaySeconds"):
            if spec["strategy"]["canary"].get(delay, 30) < grace:
                yield f"{name}: {delay} ends pods while the route may still send to them"
    scalers = of_kind(manifests, "HorizontalPodAutoscaler")
    for scaler in scalers:
        if scaler["spec"]["scaleTargetRef"]["kind"] != "Rollout":
            yield f"{name}: the autoscaler changes the Deployment, whose pods are the Rollout's"
    if not scalers and spec.get("replicas", 1) < 2:
        yield f"{name}: one pod, and none while it is replaced"
    if any("replicas" in one["spec"] for one in of_kind(manifests, spec["workloadRef"]["kind"])):
        yield f"{name}: every apply gives {workload} pods again, beside the Rollout's"


def _is_routed(manifests: list[Manifest], rollout: Manifest, services: list[str]) -> Iterator[str]:
    asked = rollout["spec"]["strategy"]["canary"]["trafficRouting"]["plugins"]
    wanted = asked["argoproj-labs/gatewayAPI"]
    routes = [
        one
        for one in of_kind(manifests, "HTTPRoute")
        if (one["metadata"]["name"], one["metadata"]["namespace"])
        == (wanted["httpRoute"], wanted["namespace"])
    ]
    if not routes:
        yield f"there is no route {wanted['namespace']}/{wanted['httpRoute']}"
    offered = {
        (one["metadata"]["name"], port["port"])
        for one in of_kind(manifests, "Service")
        for port in one["spec"]["ports"]
    }
    for route in routes:
        for rule in route["spec"]["rules"]:
            backends = [one["name"] for one in rule["backendRefs"]]
            if backends != services:
                yield f"the route leads to {backends}, and weights are those of {services}"
            if [one["weight"] for one in rule["backendRefs"]] != [100, 0]:
                yield "the canary has a weight before it begins"
            for one in rule["backendRefs"]:
                if (one["name"], one["port"]) not in offered:
                    yield f"the route's {one['name']}:{one['port']} is no Service's"
            yield from _outlasts(manifests, rule)


def _outlasts(manifests: list[Manifest], rule: Manifest) -> Iterator[str]:
    seconds = quantity(rule["timeouts"]["request"].removesuffix("s"))
    for found in pods(manifests):
        if seconds <= _longest(found):
            yield f"the route gives up after {seconds:g} s, before {found.owner}"


def _longest(found: Pods) -> float:
    """The longest that a request may take there, in seconds."""
    return max(
        float(one.get("value") or 0) if one["name"] in _LONGEST else 0.0
        for container in found.containers
        for one in container.get("env", ({"name": ""},))
    )


def _is_judged(manifests: list[Manifest], analysis: Manifest | None) -> Iterator[str]:
    if analysis is None:
        yield "nobody judges the canary"
        return
    given = {one["name"] for one in analysis["args"]}
    templates = {one["metadata"]["name"]: one for one in of_kind(manifests, "AnalysisTemplate")}
    judged = ""
    for wanted in analysis["templates"]:
        template = templates.get(wanted["templateName"])
        if template is None:
            yield f"there is no analysis {wanted['templateName']}"
            continue
        if {one["name"] for one in template["spec"]["args"]} != given:
            yield f"the arguments of {wanted['templateName']} are others than are given"
        for metric in template["spec"]["metrics"]:
            query = metric["provider"]["prometheus"]["query"]
            judged += query
            if query.count("{{args.canary}}") != query.count("rate("):
                yield f"{metric['name']} also looks at pods that are no canary"
            if f"result[0] >= {_BURNS_FAST}" not in metric.get("failureCondition", ""):
                yield f"{metric['name']}: a burn rate of {_BURNS_FAST} does not end the canary"
            if metric.get("failureLimit", 0) < 0 or metric.get("inconclusiveLimit", 0) < 0:
                yield f"{metric['name']} never ends the canary"
    for objective in ("availability", "latency"):
        if f"flowmo:{objective}:objective" not in judged:
            yield f"the objective {objective} is not looked at"


def clusters(manifests: list[Manifest]) -> Iterator[str]:
    """Two Ray clusters are told apart by whoever judges, drains or waits for engines."""
    services = of_kind(manifests, "RayService")
    names = {one["metadata"]["name"] for one in services}
    for found in pods(manifests):
        own = found.owner.partition("/")[2].partition(" ")[0]
        if found.group is not None and found.labels.get("track") != own:
            yield f"{found.owner}: its track is {found.labels.get('track')}, and not {own}"
    if len(services) < 2:
        return
    for monitor in of_kind(manifests, "PodMonitor"):
        endpoint = monitor["spec"]["podMetricsEndpoints"][0]
        if "track" not in {one["targetLabel"] for one in endpoint.get("relabelings", ())}:
            yield f"{monitor['metadata']['name']}: series do not say of which cluster they are"
    marks = [
        re.findall(r"\S+[.]ready", str(container.get("command")))
        for found in pods(manifests)
        if found.labels.get("part") == "decoder"
        for container in found.spec.get("initContainers", ())
    ]
    if len({str(one) for one in marks}) < len(services):
        yield f"clusters of different releases wait for the same mark: {marks}"
    for rollout in of_kind(manifests, "Rollout"):
        yield from _is_between(manifests, rollout, names)


def _is_between(manifests: list[Manifest], rollout: Manifest, names: set[str]) -> Iterator[str]:
    """Edges lead to a cluster, and one that is there is judged."""
    name, spec = rollout["metadata"]["name"], rollout["spec"]
    analysis = spec["strategy"]["canary"].get("analysis", {})
    told = {one["name"]: one.get("value") for one in analysis.get("args", ())}.get("canary")
    if told not in names:
        yield f"{name}: {told} is no RayService, so nobody is judged"
    workload = f"{spec['workloadRef']['kind']}/{spec['workloadRef']['name']}"
    # To which, flows.services says.
    if not any(
        found.owner == workload and "EDGE_UPSTREAM" in str(found.spec) for found in pods(manifests)
    ):
        yield f"{name}: {workload} leads to no cluster"


def namespaces(manifests: list[Manifest]) -> Iterator[str]:
    """All is in the one namespace: what names none is made in whichever kubectl has chosen."""
    (own,) = (one["metadata"]["name"] for one in of_kind(manifests, "Namespace"))
    for manifest in manifests:
        kind, metadata = manifest["kind"], manifest["metadata"]
        if kind not in _OF_THE_CLUSTER and metadata.get("namespace") != own:
            yield f"{kind}/{metadata['name']} is in {metadata.get('namespace')}, and not in {own}"


RULES = (digests, pull_secrets, priorities, quotas, canary, clusters, namespaces)
