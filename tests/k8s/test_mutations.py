"""Manifests in which one thing is wired wrong: each must be refused, by a rule that says why.

The audit of issue 23 made such changes; two of three passed unseen.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s import flows, paths, pod_rules, ray_rules, upkeep
from tests.k8s.manifests import (
    K8S,
    Manifest,
    Pods,
    compose,
    of_kind,
    pods,
    render,
    serve_config,
)
from tests.k8s.test_manifests import (
    CPU,
    DEPLOYMENT,
    GONE,
    GROUPS,
    H100,
    HEAD,
    JOB,
    POD,
    PRIOR,
    RAY,
    RULES,
    SCALER,
    SINGLE,
    Rule,
    change,
    schemas,
    serve,
)

CLUSTER = "spec.rayClusterConfig"
REDIS, EDGE = "StatefulSet/flowmo-redis", "Deployment/flowmo-edge"
OPTIONS = f"{CLUSTER}.autoscalerOptions"
DECODER = f"{GROUPS}.2.template.spec"
GENERATOR = f"{GROUPS}.3.template.spec"
OTHER_GPU = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}
POLICY = "NetworkPolicy/flowmo"

MUTATIONS: list[tuple[Rule, str, str, str, Any, str]] = [
    # What is told of others.
    (flows.services, H100, RAY, f"{CLUSTER}.gcsFaultToleranceOptions.redisAddress",
     "flowmo-rediss:6379", "is no Service"),
    (flows.services, H100, RAY, f"{CLUSTER}.gcsFaultToleranceOptions.redisAddress",
     "flowmo-redis:6380", "is no Service"),
    (flows.services, H100, EDGE, f"{POD}.containers.0.env.2.value", "flowmo-head-svc:8000",
     "is not the operator's Service"),
    (paths.secrets, H100, RAY,
     f"{CLUSTER}.gcsFaultToleranceOptions.redisPassword.valueFrom.secretKeyRef.key", "pass",
     "has no key pass"),
    (paths.secrets, H100, RAY, f"{CLUSTER}.authOptions.secretName", "flowmo-token",
     "flowmo-token has no auth_token"),
    (paths.secrets, H100, REDIS, f"{POD}.containers.0.env.0.valueFrom.secretKeyRef.name", "redis",
     "has no key password"),
    (paths.secrets, H100, JOB, f"{POD}.initContainers.0.envFrom.0.secretRef.optional", False,
     "is not made by anybody"),
    # Paths.
    (paths.mounts, H100, RAY, f"{DECODER}.containers.0.volumeMounts.1.mountPath", "/models",
     "/checkpoints/lo of ray-worker is in no mount"),
    (paths.mounts, H100, RAY, f"{GROUPS}.0.template.spec.containers.0.volumeMounts",
     [{"name": "tmp", "mountPath": "/tmp"}], "/keys/keys.toml of ray-worker is in no mount"),
    (paths.mounts, SINGLE, DEPLOYMENT, f"{POD}.containers.0.volumeMounts.1.mountPath", "/secret",
     "/keys/keys.toml of flowmo is in no mount"),
    (paths.mounts, SINGLE, DEPLOYMENT, f"{POD}.containers.0.env.1.value", "/keys/key.toml",
     "key.toml is no key of the secret"),
    (paths.mounts, H100, RAY, "spec.serveConfigV2", serve(models__lo__engine_cache="/cache"),
     "/cache of ray-worker is in no mount"),
    (paths.mounts, H100, JOB, f"{POD}.containers.0.volumeMounts.2.readOnly", True,
     "/engines of build is written, and is read-only"),
    (paths.mounts, H100, JOB, f"{POD}.initContainers.0.volumeMounts.1.readOnly", True,
     "/checkpoints/lo of fetch is written, and is read-only"),
    (paths.mounts, H100, JOB, f"{POD}.volumes.1.persistentVolumeClaim.claimName", "flowmo-engines",
     "/checkpoints is in several claims"),
    (paths.shared, H100, "PersistentVolumeClaim/flowmo-checkpoints", "spec.accessModes",
     ["ReadWriteOnce"], "not ReadWriteMany"),
    (ray_rules.waiting, H100, RAY, f"{DECODER}.initContainers", GONE, "begins before its engines"),
    (ray_rules.waiting, H100, JOB, f"{POD}.containers.0.args.7", "/engines/ready",
     "waits for /engines/lo.ready"),
    (ray_rules.waiting, H100, JOB, f"{POD}.initContainers", GONE, "nobody brings /checkpoints/lo"),
    # Ways.
    (flows.flows, H100, f"{POLICY}-ray", "spec.egress.2", {"to": [], "ports": [{"port": 1}]},
     "does not reach kube-system, port 53"),
    (flows.flows, H100, f"{POLICY}-ray", "spec.egress.2.to.1", GONE,
     "does not reach openshift-dns, port 5353"),
    (flows.flows, H100, f"{POLICY}-ray", "spec.egress.0", GONE, "Ray's nodes: "),
    (flows.flows, H100, f"{POLICY}-ray", "spec.ingress.0", GONE, "Ray's nodes: "),
    (flows.flows, H100, f"{POLICY}-ray", "spec.egress.1", GONE, "Redis: RayService/flowmo head"),
    (flows.flows, H100, f"{POLICY}-ray", "spec.ingress.1", GONE, "metrics: monitoring"),
    (flows.flows, H100, f"{POLICY}-redis", "spec.ingress", [], "Redis: RayService/flowmo head"),
    (flows.flows, H100, f"{POLICY}-head", "spec.egress", [], "does not reach Kubernetes' API"),
    (flows.flows, H100, f"{POLICY}-head", "spec.ingress", [], "operator: kuberay-system"),
    (flows.flows, H100, f"{POLICY}-engines", "spec.egress.1", GONE, "weights: Job/flowmo-engines"),
    (flows.flows, H100, f"{POLICY}-edge", "spec.ingress.0", GONE, "clients: everybody"),
    (flows.flows, H100, f"{POLICY}-edge", "spec.egress.0.ports.0.port", 8080, "edge: Deployment"),
    (flows.flows, H100, f"{POLICY}-service", "spec.ingress", [], "edge: Deployment"),
    (flows.flows, SINGLE, f"{POLICY}-single", "spec.ingress", [], "clients: everybody"),
    (flows.flows, CPU, f"{POLICY}-service", "spec.ingress", [], "clients: everybody"),
    # Where and with what.
    (paths.gpus, H100, RAY, f"{DECODER}.nodeSelector", OTHER_GPU, "several kinds of nodes"),
    (paths.gpus, H100, "DaemonSet/flowmo-prepull", f"{POD}.nodeSelector", OTHER_GPU,
     "several kinds of nodes"),
    (paths.spread, H100, RAY, f"{DECODER}.topologySpreadConstraints.0.labelSelector.matchLabels",
     {"app": "flowmo", "part": "encoder"}, "decoder: spreads other pods"),
    (paths.memory, H100, RAY, f"{DECODER}.containers.0.resources.limits.memory", "1Gi",
     "1.0 GiB, and lo needs"),
    (paths.storage, H100, RAY, f"{DECODER}.volumes.0.emptyDir", {}, "may fill the node's disk"),
    (paths.storage, SINGLE, DEPLOYMENT,
     f"{POD}.containers.0.resources.limits.ephemeral-storage", GONE, "no limit"),
    (paths.commands, H100, "DaemonSet/flowmo-prepull", f"{POD}.containers.0.command",
     ["sleep", "1"], "does not hold"),
    (paths.commands, H100, RAY, f"{DECODER}.containers.0.env.0",
     {"name": "PYTHONPATH", "value": "/app"}, "PYTHONPATH in the place of the image's"),
    # Scaling, drains, updates.
    (upkeep.autoscaling, H100, RAY, f"{CLUSTER}.enableInTreeAutoscaling", False, "nobody scales"),
    (upkeep.autoscaling, H100, RAY, f"{OPTIONS}.securityContext.runAsNonRoot", False, "as root"),
    (upkeep.autoscaling, H100, RAY, f"{OPTIONS}.volumeMounts", [], "nowhere to write"),
    (upkeep.autoscaling, SINGLE, SCALER, "spec.metrics.0.pods.target.averageValue", "1k",
     "target is 1000 s"),
    (upkeep.autoscaling, SINGLE, DEPLOYMENT, f"{POD}.containers.0.env.5.value", "33", "too near"),
    (upkeep.autoscaling, SINGLE, SCALER, "spec.minReplicas", 1, "one pod at least"),
    (upkeep.budgets, H100, "PodDisruptionBudget/flowmo-decoder", "spec.maxUnavailable", 1,
     "has no scale"),
    (upkeep.budgets, H100, "PodDisruptionBudget/flowmo-decoder", "spec.minAvailable", "50%",
     "has no scale"),
    (upkeep.budgets, H100, "PodDisruptionBudget/flowmo-decoder", "spec.minAvailable", 2,
     "no node ever drains"),
    (upkeep.budgets, H100, "PodDisruptionBudget/flowmo-decoder",
     "spec.selector.matchLabels.part", "gateway", "decoder: no budget"),
    (upkeep.budgets, SINGLE, "PodDisruptionBudget/flowmo", "spec.maxUnavailable", 0,
     "no node ever drains"),
    (upkeep.rollouts, SINGLE, DEPLOYMENT, "spec.strategy.rollingUpdate.maxSurge", 0,
     "neither add nor take"),
    (upkeep.rollouts, SINGLE, DEPLOYMENT, "spec.strategy.rollingUpdate.maxUnavailable", 1,
     "before others are ready"),
    (ray_rules.endings, H100, RAY, f"{DECODER}.containers.0.lifecycle", GONE,
     "has 30 s after SIGTERM"),
    # Monitoring.
    (upkeep.monitoring, H100, "PodMonitor/flowmo-ray", "spec.selector.matchLabels.part", "head",
     "decoder: nobody scrapes"),
    (upkeep.monitoring, H100, "PodMonitor/flowmo-ray", "spec.podMetricsEndpoints.0.path",
     "/metric", "nobody scrapes its port metrics"),
    (upkeep.monitoring, SINGLE, "PodMonitor/flowmo", "spec.podMetricsEndpoints.0.path", "/",
     "nobody scrapes its port http"),
    (upkeep.monitoring, H100, "PrometheusRule/flowmo-alerts", "spec.groups.1", GONE,
     "the rules alerts are not there"),
    (upkeep.monitoring, H100, "PrometheusRule/flowmo-alerts",
     "spec.groups.0.rules.0.annotations.runbook_url", "docs/runbook.md", "is no address"),
    (upkeep.monitoring, H100, "PodMonitor/flowmo-ray", "metadata.labels.release", GONE,
     "common stack"),
    # Generators.
    (paths.mounts, PRIOR, RAY, f"{GENERATOR}.containers.0.volumeMounts.1.mountPath", "/models",
     "/checkpoints/prior of ray-worker is in no mount"),
    (paths.mounts, PRIOR, RAY, f"{GENERATOR}.initContainers.0.volumeMounts.2.mountPath", "/cache",
     "/engines of wait-for-engines is in no mount"),
    (paths.mounts, PRIOR, JOB, f"{POD}.initContainers.1.volumeMounts.1.readOnly", True,
     "/checkpoints/prior of fetch-prior is written, and is read-only"),
    (paths.mounts, PRIOR, JOB, f"{POD}.initContainers.2.volumeMounts.2.readOnly", True,
     "/engines of build-prior is written, and is read-only"),
    (paths.secrets, PRIOR, JOB, f"{POD}.initContainers.1.envFrom.0.secretRef.optional", False,
     "is not made by anybody"),
    (paths.gpus, PRIOR, RAY, f"{GENERATOR}.nodeSelector", OTHER_GPU, "several kinds of nodes"),
    (paths.spread, PRIOR, RAY,
     f"{GENERATOR}.topologySpreadConstraints.1.labelSelector.matchLabels",
     {"app": "flowmo", "part": "decoder"}, "generator: spreads other pods"),
    (paths.memory, PRIOR, RAY, f"{GENERATOR}.containers.0.resources.limits.memory", "3Gi",
     "3.0 GiB, and prior needs"),
    (ray_rules.waiting, PRIOR, RAY, f"{GENERATOR}.initContainers", GONE,
     "generator begins before its engines"),
    (ray_rules.waiting, PRIOR, JOB, f"{POD}.initContainers.1.args.2", "/checkpoints/other",
     "nobody brings /checkpoints/prior"),
    (ray_rules.waiting, PRIOR, JOB, f"{POD}.initContainers.2.args.7", "/engines/lo-prior.ready",
     "waits for /engines/prior.ready"),
    (ray_rules.waiting, PRIOR, JOB, f"{POD}.initContainers.0.args",
     ["build-engine", "/checkpoints/prior", "--ready", "/engines/prior.ready"],
     "builds engines of /checkpoints/prior before it is there"),
    (ray_rules.capacity, PRIOR, RAY, f"{GROUPS}.3.labels.part", "prior",
     "generator-lo: its labels"),
    (ray_rules.capacity, PRIOR, RAY, f"{GROUPS}.3.maxReplicas", 2,
     "generator: max_replicas need 4 num_gpus"),
    (ray_rules.redundancy, PRIOR, RAY, f"{GROUPS}.3.minReplicas", 1, "generator: one pod"),
    (ray_rules.config, PRIOR, RAY, f"{GENERATOR}.containers.0.env", [],
     "generator: its proxy answers in plain text"),
    (ray_rules.config, PRIOR, RAY, f"{GENERATOR}.containers.0.ports.0.containerPort", 8001,
     "generator: its port serve is [8001]"),
    (ray_rules.endings, PRIOR, RAY, f"{GENERATOR}.containers.0.lifecycle", GONE,
     "generator has 30 s after SIGTERM"),
    (flows.flows, PRIOR, f"{POLICY}-service", "spec.podSelector.matchExpressions.0.values",
     ["gateway", "encoder", "decoder"], "does not reach RayService/flowmo generator"),
    (flows.flows, PRIOR, RAY, f"{GROUPS}.3.template.metadata.labels.app", "generator",
     "does not reach RayService/flowmo generator"),
    (upkeep.budgets, PRIOR, "PodDisruptionBudget/flowmo-generator",
     "spec.selector.matchLabels.part", "decoder", "generator: no budget"),
    (upkeep.monitoring, PRIOR, RAY, f"{GENERATOR}.containers.0.ports.1.name", "metric",
     "generator: has no port metrics"),
    # Pods.
    (pod_rules.requests, PRIOR, RAY, f"{GENERATOR}.tolerations", [], "toleration"),
    (pod_rules.restricted, H100, RAY, f"{HEAD}.template.spec.automountServiceAccountToken", False,
     "service account's token"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "overlay", "name", "path", "value", "complaint"),
    MUTATIONS,
    ids=[f"{case[2]}-{case[3].rpartition('.')[2]}-{n}" for n, case in enumerate(MUTATIONS)],
)
def test_what_is_wired_wrong_is_refused(
    rule: Rule, overlay: str, name: str, path: str, value: Any, complaint: str
) -> None:
    manifests = render(K8S / overlay)
    before = copy.deepcopy(manifests)
    change(manifests, name, path, value)
    assert manifests != before, "the case no longer changes anything"
    found = list(rule(manifests))
    assert any(complaint in text for text in found), found


@pytest.mark.parametrize("kind", ["PrometheusRule", "PodDisruptionBudget", "NetworkPolicy"])
def test_what_is_left_out_is_missed(kind: str) -> None:
    rules: dict[str, Rule] = {
        "PrometheusRule": upkeep.monitoring,
        "PodDisruptionBudget": upkeep.budgets,
        "NetworkPolicy": pod_rules.network,
    }
    manifests = render(K8S / H100)
    left: list[Manifest] = [manifest for manifest in manifests if manifest["kind"] != kind]
    assert len(left) < len(manifests)
    assert list(rules[kind](left))


def test_the_adapter_gives_what_the_autoscaler_asks_for_of_each_pod() -> None:
    rules = yaml.safe_load((K8S / "single" / "adapter-rules.yaml").read_text(encoding="utf-8"))
    (scaler,) = of_kind(render(K8S / "single"), "HorizontalPodAutoscaler")
    metrics = [asked["pods"]["metric"]["name"] for asked in scaler["spec"]["metrics"]]
    for metric in metrics:
        assert list(upkeep.adapter(rules, metric)) == []
    rule = rules["rules"]["custom"][-1]
    del rule["resources"]["overrides"]["pod"]
    assert "of no pod" in next(upkeep.adapter(rules, metrics[-1]))
    assert "does not give" in next(upkeep.adapter(rules, "another"))


def test_keda_asks_for_the_same(tmp_path: Path) -> None:
    composed = compose(tmp_path, "single", "keda")
    assert of_kind(composed, "HorizontalPodAutoscaler") == []
    (scaled,) = of_kind(composed, "ScaledObject")
    (scaler,) = of_kind(render(K8S / "single"), "HorizontalPodAutoscaler")
    spec, own = scaled["spec"], scaler["spec"]
    assert spec["scaleTargetRef"] == own["scaleTargetRef"]
    limits = spec["minReplicaCount"], spec["maxReplicaCount"]
    assert limits == (own["minReplicas"], own["maxReplicas"])
    asked = {
        trigger["metadata"]["query"]: trigger["metadata"]["threshold"]
        for trigger in spec["triggers"]
        if trigger["metricType"] == "AverageValue"
    }
    assert asked == {
        f'sum({one["pods"]["metric"]["name"]}{{namespace="flowmo"}})': (
            one["pods"]["target"]["averageValue"]
        )
        for one in own["metrics"]
    }


def test_a_gateway_of_an_incremental_upgrade_is_let_in(tmp_path: Path) -> None:
    manifests = compose(tmp_path, H100, "incremental-upgrade")
    gateway = Pods(
        "the Gateway", {"gateway.networking.k8s.io/gateway-name": "flowmo"}, {"containers": []}
    )
    (decoder,) = (one for one in pods(manifests) if one.labels.get("part") == "decoder")
    assert flows.reaches(manifests, gateway, decoder, 8000)
    assert flows.reaches(manifests, flows.Anybody("clients"), gateway, 80)
    assert not flows.reaches(manifests, gateway, decoder, 10001)
    own = render(K8S / H100)
    assert not flows.reaches(own, gateway, decoder, 8000)


def test_what_goes_out_is_a_component(tmp_path: Path) -> None:
    store, collector = flows.Anybody("a store"), flows.Namespace("monitoring")
    for overlay, owner in ((SINGLE, "Deployment/flowmo"), (H100, "RayService/flowmo decoder")):
        (tmp_path / owner.partition("/")[0]).mkdir()
        composed = compose(tmp_path / owner.partition("/")[0], overlay, "egress")
        for manifests, open_ in ((composed, True), (render(K8S / overlay), False)):
            (source,) = (one for one in pods(manifests) if one.owner == owner)
            assert flows.reaches(manifests, source, store, 443) is open_
            assert flows.reaches(manifests, source, collector, 4318) is open_


def test_an_ingress_leads_to_the_edge_with_tls(tmp_path: Path) -> None:
    manifests = compose(tmp_path, H100, "ingress")
    assert list(schemas(manifests)) == []
    (ingress,) = of_kind(manifests, "Ingress")
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    service = path["backend"]["service"]
    (found,) = (
        s for s in of_kind(manifests, "Service") if s["metadata"]["name"] == service["name"]
    )
    assert service["port"]["name"] in {port["name"] for port in found["spec"]["ports"]}
    assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]


@pytest.mark.parametrize("kind", ["mig", "mps"])
def test_slices_and_shares_for_encoders_keep_every_rule(kind: str) -> None:
    manifests = render(K8S / "overlays" / f"h100-{kind}")
    assert [text for rule in RULES for text in rule(manifests)] == []
    sliced, whole = serve_config(manifests), serve_config(render(K8S / H100))
    encoder = sliced["applications"][0]["args"]["models"]["lo"]["encoder"]
    assert encoder.pop("num_gpus") == 1
    whole["applications"][0]["args"]["models"]["lo"]["encoder"].pop("num_gpus")
    assert sliced == whole
    change(manifests, RAY, f"{GROUPS}.1.rayStartParams", {})
    assert "Ray is told of 0 GPUs" in " ".join(ray_rules.capacity(manifests))


def test_the_image_keeps_what_pods_rely_on() -> None:
    """Its Python finds the package, wherever a pod starts it."""
    text = Path(K8S.parent, "Dockerfile").read_text(encoding="utf-8")
    folder = text.partition("PYTHONPATH=")[2].split()[0]
    assert f"COPY --from=project {folder} {folder}" in text
