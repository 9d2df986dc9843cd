"""The manifests keep their rules, and each rule refuses a manifest that breaks it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from fastapi.routing import APIRoute

from flowmo.service.http.routes import health
from tests.k8s import flows, paths, pod_rules, ray_rules, upkeep
from tests.k8s.manifests import (
    K8S,
    OVERLAYS,
    ROOT,
    Manifest,
    compose,
    of_kind,
    pods,
    ray_service,
    render,
)
from tools import prometheus_rules as kubernetes

METRICS = pod_rules.metric_names((ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"))
ROUTES = {route.path for route in health.router.routes if isinstance(route, APIRoute)}
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
# Kinds of operators, which Kubernetes' schemas do not know. The first has rules of its own here.
FOREIGN = {"RayService", "PodMonitor", "PrometheusRule", "Rollout", "AnalysisTemplate", "HTTPRoute"}
Rule = Callable[[list[Manifest]], Iterator[str]]


def schemas(manifests: list[Manifest]) -> Iterator[str]:
    """Kubernetes' own, strictly; pod templates of the RayService as the pods that they become."""
    whole = [manifest for manifest in manifests if manifest["kind"] not in FOREIGN]
    whole += [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": found.spec}
        for found in pods(manifests)
        if found.group is not None
    ]
    for manifest in whole:
        try:
            kubernetes_validate.validate(manifest, "1.37", strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as e:
            yield f"{manifest['kind']}: {e}"


def scaling(manifests: list[Manifest]) -> Iterator[str]:
    return pod_rules.scaling(manifests, METRICS)


def probes(manifests: list[Manifest]) -> Iterator[str]:
    return pod_rules.probes(manifests, ROUTES)


def versions(manifests: list[Manifest]) -> Iterator[str]:
    return ray_rules.versions(manifests, CONSTRAINTS)


RULES: tuple[Rule, ...] = (
    schemas, scaling, probes, versions,
    pod_rules.restricted, pod_rules.images, pod_rules.volumes, pod_rules.requests,
    pod_rules.selectors, pod_rules.network, pod_rules.endings, pod_rules.environment,
    ray_rules.fields, ray_rules.operator, ray_rules.config, ray_rules.endings, ray_rules.capacity,
    ray_rules.redundancy, ray_rules.waiting, flows.flows, flows.services, paths.mounts,
    paths.secrets, paths.shared, paths.gpus, paths.spread, paths.memory, paths.storage,
    paths.commands, upkeep.budgets, upkeep.rollouts, upkeep.autoscaling, upkeep.monitoring,
)  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__module__[-9:] + rule.__name__)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_manifests_keep_their_rules(overlay: str, rule: Rule) -> None:
    assert list(rule(render(K8S / overlay))) == []


# --- each rule can fail -------------------------------------------------------------------------

GONE = object()
HEAD = "spec.rayClusterConfig.headGroupSpec"
GROUPS = "spec.rayClusterConfig.workerGroupSpecs"
POD = "spec.template.spec"
H100, CPU, SINGLE = "overlays/h100", "overlays/cpu-dev", "single"
PRIOR = "overlays/h100-prior"


def change(manifests: list[Manifest], name: str, path: str, value: Any) -> None:
    """Set what is at a path of the manifest ``Kind/name``, or remove it."""
    kind, _, own = name.partition("/")
    (manifest,) = (m for m in of_kind(manifests, kind) if m["metadata"]["name"] == own)
    place: Any = manifest
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
    for step in steps:
        place = place[step] if isinstance(step, int) else place.setdefault(step, {})
    if value is GONE:
        del place[last]
    else:
        place[last] = value


def serve(**changes: Any) -> str:
    """The Serve config of h100 with a part of our arguments changed, ``a__b`` for a.b."""
    text = yaml.safe_load((K8S / H100 / "serve.yaml").read_text(encoding="utf-8"))
    for path, value in changes.items():
        *steps, last = path.split("__")
        place: Any = text["applications"][0]["args"]
        if steps[:1] == ["top"]:
            place, steps = text, steps[1:]
        for step in steps:
            place = place[step]
        place[last] = value
    return yaml.safe_dump(text)


RAY, JOB, DEPLOYMENT = "RayService/flowmo", "Job/flowmo-engines", "Deployment/flowmo"
SCALER = "HorizontalPodAutoscaler/flowmo"


@pytest.mark.parametrize(
    ("rule", "overlay", "name", "path", "value", "complaint"),
    [
        (ray_rules.redundancy, H100, RAY, "spec.serveConfigV2",
         serve(models__lo__decoder__min_replicas=1), "decoder-lo: one replica"),
        (ray_rules.redundancy, H100, RAY, f"{GROUPS}.1.minReplicas", 1, "encoder: one pod"),
        (ray_rules.redundancy, H100, RAY, "spec.serveConfigV2",
         serve(settings__api_keys_file=None, gateway__min_replicas=1), "gateway: one replica"),
        (ray_rules.redundancy, CPU, RAY, "metadata.annotations", {}, "gateway: one replica"),
        (ray_rules.config, H100, RAY, f"{GROUPS}.2.template.spec.containers.0.env", [],
         "decoder: its proxy answers in plain text"),
        (schemas, SINGLE, DEPLOYMENT, "spec.replica", 2, "replica"),
        (schemas, H100, JOB, f"{POD}.restartPolicies", "Never", "restartPolicies"),
        (schemas, H100, RAY, f"{GROUPS}.2.template.spec.tolerations.0.effects", "x", "effects"),
        (schemas, SINGLE, SCALER, "spec.maxReplicas", "eight", "eight"),
        (ray_rules.fields, H100, RAY, "spec.rayClusterConfig.rayversion", "2.60.0", "rayversion"),
        (ray_rules.fields, H100, RAY, f"{GROUPS}.0.maxReplicas", "four", "maxReplicas"),
        (ray_rules.fields, H100, RAY, "spec.upgradeStrategy.type", "Rolling", "upgradeStrategy"),
        (ray_rules.operator, H100, RAY, "metadata.name", "f" * 48, "at most 47"),
        (ray_rules.operator, H100, RAY, "metadata.name", "Flowmo", "DNS label"),
        (ray_rules.operator, H100, RAY, "spec.rayClusterConfig.rayVersion", "2.51.0", "no token"),
        (ray_rules.operator, H100, RAY, "spec.rayClusterConfig.authOptions.mode", "disabled",
         "ask for no token"),
        (ray_rules.operator, H100, RAY, f"{HEAD}.rayStartParams", {}, "num-cpus is not 0"),
        (ray_rules.operator, H100, RAY, f"{HEAD}.resources", {"CPU": "1"}, "beside resources"),
        (ray_rules.operator, H100, RAY, f"{GROUPS}.0.rayStartParams.labels", "a=b", "to the group"),
        (ray_rules.operator, H100, RAY, f"{GROUPS}.0.labels.part", "a b", "is no label"),
        (ray_rules.operator, H100, RAY, f"{GROUPS}.0.minReplicas", 9, "above maxReplicas"),
        (ray_rules.operator, H100, RAY, f"{GROUPS}.1.template.spec.restartPolicy", "Always", "v2"),
        (ray_rules.operator, H100, RAY, f"{HEAD}.template.spec.containers.0.env",
         [{"name": "RAY_REDIS_ADDRESS", "value": "x"}], "beside gcsFaultToleranceOptions"),
        (ray_rules.operator, H100, RAY, f"{GROUPS}.0.template.spec.containers.0.readinessProbe",
         {"tcpSocket": {"port": 8000}}, "in the place of the operator's"),
        (ray_rules.operator, H100, RAY, "spec.upgradeStrategy.clusterUpgradeOptions",
         {"stepSizePercent": 10}, "only with it"),
        (pod_rules.environment, SINGLE, DEPLOYMENT, f"{POD}.enableServiceLinks", GONE,
         "the Service flowmo sets FLOWMO_PORT"),
        (pod_rules.environment, SINGLE, DEPLOYMENT, f"{POD}.containers.0.env",
         [{"name": "FLOWMO_QUEUE_SIZE", "value": "9"}], "FLOWMO_QUEUE_SIZE is set, but is no"),
        (versions, H100, RAY, "spec.rayClusterConfig.rayVersion", "2.59.0", "the image has"),
        (ray_rules.config, H100, RAY, "spec.serveConfigV2", serve(models={}), "models"),
        (ray_rules.config, H100, RAY, "spec.serveConfigV2", serve(gatewy=1), "gatewy"),
        (ray_rules.config, H100, RAY, "spec.serveConfigV2", serve(settings__max_itms=1), "itms"),
        (ray_rules.config, H100, RAY, "spec.serveConfigV2",
         serve(top__http_options__host="127.0.0.1"), "their own pod only"),
        (ray_rules.config, H100, RAY, "spec.serveConfigV2",
         serve(top__http_options__request_timeout_s=60), "gives up before"),
        (ray_rules.config, H100, RAY, "spec.serveConfigV2",
         serve(top__http_options__port=9000), "listen on 9000"),
        (ray_rules.config, H100, RAY, "spec.serveConfigV2",
         serve(settings__api_keys_file=None), "no keys"),
        (ray_rules.endings, H100, RAY, "spec.serveConfigV2",
         serve(settings__max_deadline_seconds=600), "may need 660 s"),
        (ray_rules.endings, H100, RAY, f"{GROUPS}.1.template.spec.terminationGracePeriodSeconds",
         60, "is killed after 60 s"),
        (ray_rules.endings, H100, RAY, "spec.rayClusterDeletionDelaySeconds", 60, "old cluster"),
        (ray_rules.capacity, H100, RAY, f"{GROUPS}.2.labels.part", "decode", "fit 0 groups"),
        (ray_rules.capacity, H100, RAY, f"{GROUPS}.2.maxReplicas", 4,
         "max_replicas need 8 num_gpus"),
        (ray_rules.capacity, H100, RAY,
         f"{GROUPS}.0.template.spec.containers.0.resources.limits.cpu", "1", "a pod has 1"),
        (ray_rules.capacity, H100, RAY, "spec.serveConfigV2",
         serve(models__lo__encoder__num_gpus=0.75), "max_replicas need 3 num_gpus"),
        (ray_rules.capacity, H100, RAY, "spec.serveConfigV2",
         serve(models__lo__encoder__num_gpus=0), "nobody uses its num_gpus"),
        (pod_rules.restricted, H100, "Namespace/flowmo",
         "metadata.labels", {"pod-security.kubernetes.io/enforce": "baseline"}, "not enforce"),
        (pod_rules.restricted, H100, RAY, f"{HEAD}.template.spec.securityContext.runAsNonRoot",
         False, "as root"),
        (pod_rules.restricted, H100, JOB, f"{POD}.securityContext.seccompProfile", {}, "seccomp"),
        (pod_rules.restricted, SINGLE, DEPLOYMENT, f"{POD}.automountServiceAccountToken", True,
         "service account"),
        (pod_rules.restricted, SINGLE, DEPLOYMENT,
         f"{POD}.containers.0.securityContext.readOnlyRootFilesystem", False, "be written"),
        (pod_rules.restricted, SINGLE, DEPLOYMENT,
         f"{POD}.containers.0.securityContext.capabilities", {}, "capabilities"),
        (pod_rules.restricted, SINGLE, DEPLOYMENT,
         f"{POD}.containers.0.securityContext.allowPrivilegeEscalation", True, "escalation"),
        (pod_rules.restricted, H100, JOB, f"{POD}.containers.0.volumeMounts", [], "/tmp"),
        (pod_rules.images, SINGLE, DEPLOYMENT, f"{POD}.containers.0.image", "flowmo-serve", "tag"),
        (pod_rules.images, SINGLE, DEPLOYMENT, f"{POD}.containers.0.image", "flowmo-serve:0.0.9",
         "is not version"),
        (pod_rules.images, H100, "StatefulSet/flowmo-redis", f"{POD}.containers.0.image",
         "redis:latest", "stays"),
        (pod_rules.volumes, SINGLE, DEPLOYMENT, f"{POD}.volumes.1.name", "kyes", "no volume"),
        (pod_rules.volumes, SINGLE, DEPLOYMENT, f"{POD}.volumes.1.secret.secretName", "keys",
         "not among those"),
        (pod_rules.volumes, H100, "PersistentVolumeClaim/flowmo-engines", "metadata.name", "e",
         "is not there"),
        (pod_rules.requests, SINGLE, DEPLOYMENT, f"{POD}.containers.0.resources", {},
         "no requests"),
        (pod_rules.requests, SINGLE, DEPLOYMENT, f"{POD}.containers.0.resources.limits.memory",
         "4Gi", "differ"),
        (pod_rules.requests, H100, RAY, f"{GROUPS}.2.template.spec.tolerations", [], "toleration"),
        (pod_rules.requests, H100, RAY, f"{GROUPS}.2.template.spec.nodeSelector", {}, "any GPU"),
        (pod_rules.selectors, SINGLE, "Service/flowmo", "spec.selector.app", "flowmo", "no pod"),
        (pod_rules.selectors, SINGLE, "Service/flowmo", "spec.ports.0.targetPort", "web",
         "port web"),
        (pod_rules.selectors, H100, "PodMonitor/flowmo-ray", "spec.podMetricsEndpoints.0.port",
         "metric", "port metric"),
        (pod_rules.selectors, H100, "PodDisruptionBudget/flowmo-gateway",
         "spec.selector.matchLabels.part", "head", "the one head"),
        (pod_rules.selectors, H100, "NetworkPolicy/flowmo-head",
         "spec.podSelector.matchLabels.part", "hed", "selects no pod"),
        (scaling, SINGLE, SCALER, "spec.scaleTargetRef.name", "flow", "is not there"),
        (scaling, SINGLE, DEPLOYMENT, "spec.replicas", 2, "every apply"),
        (scaling, SINGLE, SCALER, "spec.metrics.0.pods.metric.name", "flowmo_backlog", "none of"),
        (probes, SINGLE, DEPLOYMENT, f"{POD}.containers.0.readinessProbe.httpGet.path", "/ready",
         "no route"),
        (probes, SINGLE, DEPLOYMENT, f"{POD}.containers.0.livenessProbe.httpGet.path", "/readyz",
         "would be killed"),
        (pod_rules.endings, SINGLE, DEPLOYMENT, f"{POD}.terminationGracePeriodSeconds", 60,
         "before it has drained"),
        (pod_rules.endings, SINGLE, DEPLOYMENT, f"{POD}.containers.0.lifecycle", GONE, "no pause"),
        (pod_rules.endings, SINGLE, DEPLOYMENT, f"{POD}.containers.0.env.4.value", "30",
         "it drains for 30 s"),
        (pod_rules.network, H100, "NetworkPolicy/flowmo-closed", "spec.podSelector",
         {"matchLabels": {"app": "flowmo"}}, "DaemonSet/flowmo-prepull: Ingress is open"),
        (pod_rules.network, H100, "NetworkPolicy/flowmo-head", "spec.ingress.0.from", [],
         "port dashboard is open"),
        (pod_rules.network, H100, "NetworkPolicy/flowmo-head", "spec.ingress.0.ports.0.port",
         "client", "port client is open"),
        (pod_rules.network, H100, "NetworkPolicy/flowmo-ray", "spec.ingress.0.from.0",
         {"namespaceSelector": {}}, "port every is open"),
        (pod_rules.network, H100, "NetworkPolicy/flowmo-redis", "spec.ingress.0.from", [],
         "port redis is open"),
    ],
)  # fmt: skip
def test_a_manifest_that_breaks_a_rule_is_refused(
    rule: Rule, overlay: str, name: str, path: str, value: Any, complaint: str
) -> None:
    manifests = render(K8S / overlay)
    change(manifests, name, path, value)
    found = list(rule(manifests))
    assert any(complaint in text for text in found), found


def test_every_rule_is_shown_to_fail() -> None:
    (mark,) = test_a_manifest_that_breaks_a_rule_is_refused.pytestmark
    from tests.k8s.test_mutations import MUTATIONS

    assert {case[0] for case in (*mark.args[1], *MUTATIONS)} == set(RULES)


# --- one config -----------------------------------------------------------------------------------


def test_the_rendered_serve_config_is_its_file() -> None:
    for overlay in (H100, PRIOR, CPU):
        spec = ray_service(render(K8S / overlay))
        assert spec is not None
        assert spec["serveConfigV2"] == (K8S / overlay / "serve.yaml").read_text(encoding="utf-8")


def test_the_serve_config_of_h100_is_that_of_deploy_beside_its_pods() -> None:
    own = yaml.safe_load((K8S / H100 / "serve.yaml").read_text(encoding="utf-8"))
    shared = yaml.safe_load((ROOT / "deploy" / "ray" / "serve.yaml").read_text(encoding="utf-8"))
    ours, theirs = ray_rules.arguments(own), ray_rules.arguments(shared)
    assert ours["settings"].pop("api_keys_file") == "/keys/keys.toml"
    assert theirs["settings"].pop("api_keys_file") == "/etc/flowmo/keys.toml"
    model = ours["models"]["lo"]
    assert (model.pop("runner"), model.pop("engine_cache")) == ("tensorrt", "/engines")
    for half in (ours["gateway"], model["encoder"], model["decoder"]):
        half.pop("labels")
    for half in (theirs["gateway"], *(theirs["models"]["lo"][h] for h in ("encoder", "decoder"))):
        assert half.pop("labels") == {}
    del theirs["models"]["lo"]["runner"], theirs["models"]["lo"]["engine_cache"]
    assert ours == theirs
    del own["applications"], shared["applications"]
    assert own == shared


def test_with_a_prior_the_rest_is_that_of_h100() -> None:
    own, plain = (
        yaml.safe_load((K8S / overlay / "serve.yaml").read_text(encoding="utf-8"))
        for overlay in (PRIOR, H100)
    )
    model = own["applications"][0]["args"]["models"]["lo"]
    assert model.pop("prior") == "/checkpoints/prior"
    assert model.pop("generator")["labels"] == {"part": "generator"}
    assert own == plain


def test_rules_for_the_operator_are_those_that_promtool_tests() -> None:
    for path, text in kubernetes.files().items():
        assert path.read_text(encoding="utf-8") == text, "run python -m tools.prometheus_rules"
        rules = yaml.safe_load(text)
        source = yaml.safe_load((kubernetes.RULES / f"{path.stem}.yml").read_text(encoding="utf-8"))
        assert rules["spec"] == source
        assert rules["kind"] == "PrometheusRule"


def test_an_update_by_degrees_is_a_component(tmp_path: Path) -> None:
    manifests = compose(tmp_path, H100, "incremental-upgrade")
    spec = ray_service(manifests)
    assert spec is not None
    assert spec["upgradeStrategy"]["type"] == "NewClusterWithIncrementalUpgrade"
    assert list(ray_rules.fields(manifests)) == list(ray_rules.operator(manifests)) == []
    change(manifests, RAY, "spec.upgradeStrategy.clusterUpgradeOptions.stepSizePercent", 50)
    assert "above maxSurgePercent" in next(iter(ray_rules.operator(manifests)))
