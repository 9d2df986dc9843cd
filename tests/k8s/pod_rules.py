"""Rules of pods and of what selects them. Each yields what is wrong."""

import re
from collections.abc import Iterator

from flowmo import __version__
from flowmo.service.setting import unknown_variables
from flowmo.service.settings import Settings
from tests.k8s.manifests import Manifest, Pods, of_kind, pods, selects

# Not in the repository: made by the operator of the cluster, docs/kubernetes.md says how.
SECRETS = {"flowmo-api-keys", "flowmo-redis", "flowmo-ray-token"}
# Ports that run code for whoever reaches them, by name and number.
_CLOSED = {"dashboard", "client", "gcs", 8265, 10001, 6379, 52365}


def restricted(manifests: list[Manifest]) -> Iterator[str]:
    """The Pod Security Standard ``restricted``, and a root file system that is read-only."""
    for namespace in of_kind(manifests, "Namespace"):
        if namespace["metadata"]["labels"].get(
            "pod-security.kubernetes.io/enforce"
        ) != "restricted":  # fmt: skip
            yield "the namespace does not enforce restricted pods"
    for found in pods(manifests):
        context = found.spec.get("securityContext", {})
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            yield f"{found.owner}: may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{found.owner}: no seccomp profile"
        # The head's autoscaler asks Kubernetes for pods; nobody else has a reason to.
        head = found.group is not None and "groupName" not in found.group
        if found.spec.get("automountServiceAccountToken", True) is not head:
            yield f"{found.owner}: a service account's token where none is needed, or none"
        yield from _closed_containers(found)


def _closed_containers(found: Pods) -> Iterator[str]:
    for container in found.containers:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{found.owner}: privilege escalation"
        if not own.get("readOnlyRootFilesystem"):
            yield f"{found.owner}: a root file system that can be written"
        if own.get("capabilities", {}).get("drop") != ["ALL"]:
            yield f"{found.owner}: capabilities"
        paths = {mount["mountPath"] for mount in container.get("volumeMounts", ())}
        if container["image"].startswith("flowmo-serve") and "/tmp" not in paths:
            yield f"{found.owner}: nowhere to write, /tmp is no volume"


def images(manifests: list[Manifest]) -> Iterator[str]:
    """Ours has this version's tag, others have one that stays what it is."""
    for found in pods(manifests):
        for container in found.containers:
            name, _, tag = container["image"].rpartition(":")
            if not name or tag == "latest":
                yield f"{found.owner}: image {container['image']} without a tag that stays"
            elif name == "flowmo-serve" and tag != __version__:
                yield f"{found.owner}: image {container['image']} is not version {__version__}"


def volumes(manifests: list[Manifest]) -> Iterator[str]:
    """What pods mount is there, or is made as the documentation says."""
    claims = {claim["metadata"]["name"] for claim in of_kind(manifests, "PersistentVolumeClaim")}
    mounted: set[str] = set()
    for found in pods(manifests):
        names = {volume["name"] for volume in found.spec.get("volumes", ())}
        for container in found.containers:
            for mount in container.get("volumeMounts", ()):
                if mount["name"] not in names and not found.owner.startswith("StatefulSet"):
                    yield f"{found.owner}: mounts {mount['name']}, which is no volume of the pod"
        for volume in found.spec.get("volumes", ()):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            secret = volume.get("secret", {}).get("secretName")
            mounted |= {claim} if claim else set()
            if claim and claim not in claims:
                yield f"{found.owner}: claim {claim} is not there"
            if secret and secret not in SECRETS:
                yield f"{found.owner}: secret {secret} is not among those that are made"
    for claim in sorted(claims - mounted):
        yield f"claim {claim} is mounted by nobody"


def requests(manifests: list[Manifest]) -> Iterator[str]:
    """Every container says what it needs, and memory is never promised twice."""
    for found in pods(manifests):
        for container in found.containers:
            wanted = container.get("resources", {}).get("requests", {})
            limits = container.get("resources", {}).get("limits", {})
            if not {"cpu", "memory"} <= set(wanted):
                yield f"{found.owner}: no requests of cpu and memory"
            if wanted.get("memory") != limits.get("memory"):
                yield f"{found.owner}: memory that may be taken away, request and limit differ"
            gpus = {key for key in {*wanted, *limits} if key.startswith("nvidia.com/")}
            if gpus and "nvidia.com/gpu" not in str(found.spec.get("tolerations", "")):
                yield f"{found.owner}: a GPU without the toleration of its nodes"
            if gpus and not found.spec.get("nodeSelector"):
                yield f"{found.owner}: any GPU will do, says its node selector"


def selectors(manifests: list[Manifest]) -> Iterator[str]:
    """Whatever selects pods selects some, and the ports that it names are theirs."""
    templates = list(pods(manifests))
    for manifest in manifests:
        name = f"{manifest['kind']}/{manifest['metadata']['name']}"
        spec = manifest.get("spec", {})
        if manifest["kind"] == "Service":
            selector, ports = {"matchLabels": spec["selector"]}, spec["ports"]
            wanted = [port["targetPort"] for port in ports]
        elif manifest["kind"] == "PodMonitor":
            selector = spec["selector"]
            wanted = [endpoint["port"] for endpoint in spec["podMetricsEndpoints"]]
        elif manifest["kind"] == "NetworkPolicy":
            selector = spec["podSelector"]
            rules = spec.get("ingress", ())
            wanted = [port["port"] for rule in rules for port in rule.get("ports", ())]
        elif manifest["kind"] == "PodDisruptionBudget":
            selector, wanted = spec["selector"], []
        else:
            continue
        chosen = [found for found in templates if selects(selector, found.labels)]
        if not chosen:
            yield f"{name} selects no pod"
        offered = [
            port
            for found in chosen
            for container in found.containers
            for port in container.get("ports", ())
        ]
        have = {port.get(key) for port in offered for key in ("name", "containerPort")}
        for port in wanted:
            if port not in have:
                yield f"{name}: port {port} is of no pod that it selects"
    for found in templates:
        for budget in of_kind(manifests, "PodDisruptionBudget"):
            if found.labels.get("part") == "head" and selects(
                budget["spec"]["selector"], found.labels
            ):
                yield "a disruption budget of the one head would hold up every drain"


def environment(manifests: list[Manifest]) -> Iterator[str]:
    """Every variable is a setting, and no Service's name makes a variable that is one, too."""
    services = [service["metadata"]["name"] for service in of_kind(manifests, "Service")]
    for found in pods(manifests):
        for container in found.containers:
            if not container["image"].startswith("flowmo-serve"):
                continue
            if "flowmo" in services and found.spec.get("enableServiceLinks", True):
                yield f"{found.owner}: the Service flowmo sets FLOWMO_PORT to an address"
            given = [variable["name"] for variable in container.get("env", ())]
            for sentence in unknown_variables(Settings, dict.fromkeys(given, "")):
                yield f"{found.owner}: {sentence}"


def scaling(manifests: list[Manifest], metrics: set[str]) -> Iterator[str]:
    """An autoscaler's target is there, and its metric is one of the service's."""
    names = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    for scaler in of_kind(manifests, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        if (target["kind"], target["name"]) not in names:
            yield f"the autoscaler's {target['kind']}/{target['name']} is not there"
        if any("replicas" in m["spec"] for m in of_kind(manifests, target["kind"])):
            yield "replicas beside an autoscaler: every apply would set them again"
        for metric in scaler["spec"]["metrics"]:
            name = metric.get("pods", {}).get("metric", {}).get("name")
            if name not in metrics:
                yield f"the autoscaler's metric {name} is none of the service's"


def network(manifests: list[Manifest]) -> Iterator[str]:
    """Closed by default; Ray's ports are open to the cluster's own pods and to the operator."""
    policies = of_kind(manifests, "NetworkPolicy")
    for found in pods(manifests):
        covering = [p["spec"] for p in policies if selects(p["spec"]["podSelector"], found.labels)]
        for direction in ("Ingress", "Egress"):
            if not any(direction in policy["policyTypes"] for policy in covering):
                yield f"{found.owner}: {direction} is open"
        for policy in covering:
            for rule in policy.get("ingress", ()):
                yield from (f"{found.owner}: {text}" for text in _open(rule, found))


def _open(rule: Manifest, found: Pods) -> Iterator[str]:
    peers = rule.get("from", [])
    own = all(_is_own(peer) for peer in peers) and bool(peers)
    operator = bool(peers) and all(
        peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
        == "kuberay-system"
        for peer in peers
    )
    for port in rule.get("ports", [{"port": "every"}]):
        number = port["port"]
        redis = found.labels.get("app") == "flowmo-redis"
        dangerous = number in _CLOSED or number == "every" or redis
        if dangerous and not own and not (operator and number == "dashboard"):
            yield f"port {number} is open to more than its own"


def _is_own(peer: Manifest) -> bool:
    labels = peer.get("podSelector", {}).get("matchLabels", {})
    return "namespaceSelector" not in peer and labels.get("app") in {"flowmo", "flowmo-single"}


def _of_ours(manifests: list[Manifest]) -> Iterator[Manifest]:
    """Deployments of the one process; the edge is another's program, with tests of its own."""
    for deployment in of_kind(manifests, "Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        if container["image"].startswith("flowmo-serve"):
            yield deployment


def probes(manifests: list[Manifest], routes: set[str]) -> Iterator[str]:
    """Probes of the one process ask its routes; readiness is asked before liveness can kill."""
    for deployment in _of_ours(manifests):
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                path = container.get(kind, {}).get("httpGet", {}).get("path")
                if path not in routes:
                    yield f"{kind} asks {path}, which is no route"
            if container.get("livenessProbe", {}).get("httpGet", {}).get("path") == "/readyz":
                yield "liveness asks /readyz: a process that is full or draining would be killed"


def endings(manifests: list[Manifest]) -> Iterator[str]:
    """The one process has time to finish what it has begun."""
    for deployment in _of_ours(manifests):
        spec = deployment["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        env = {entry["name"]: entry.get("value") for entry in container["env"]}
        longest = float(env["FLOWMO_MAX_DEADLINE_SECONDS"] or 0)
        drain = float(env["FLOWMO_DRAIN_SECONDS"] or 0)
        pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if pause < 1:
            yield "no pause before SIGTERM: requests still come to a pod that refuses them"
        if drain < longest:
            yield f"it drains for {drain:g} s, and a request may take {longest:g} s"
        if spec.get("terminationGracePeriodSeconds", 30) < pause + drain:
            yield "it is killed before it has drained"


def metric_names(text: str) -> set[str]:
    """The names of the service's series, of docs/metrics.md."""
    return set(re.findall(r"^\| `(flowmo_\w+)` \|", text, flags=re.MULTILINE))
