"""Components keep every rule on the overlays that they are for, and each of their own can fail."""

import copy
import functools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.prometheus import RULES as RECORDING
from benchmarks.prometheus import find_tool
from tests.k8s import component_rules, flows
from tests.k8s.manifests import K8S, Manifest, compose, of_kind, pods, render
from tests.k8s.test_manifests import (
    GONE,
    GROUPS,
    H100,
    HEAD,
    POD,
    PRIOR,
    RAY,
    RULES,
    SINGLE,
    change,
)

DIGEST = f"sha256:{'0a' * 32}"
ROLLOUT, ROUTE = "Rollout/flowmo", "HTTPRoute/flowmo"
ANALYSIS = "AnalysisTemplate/flowmo-objectives"
CANARY = "spec.strategy.canary"
NEXT = "overlays/h100-next"
RAY_ROLLOUT, RAY_ANALYSIS = "Rollout/flowmo-edge", "AnalysisTemplate/flowmo-ray-objectives"
RAY_NEXT, EDGE = "RayService/flowmo-next", "Deployment/flowmo-edge"
UPSTREAM = f"{POD}.containers.0.env.2.value"


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], list[Manifest]]:
    """An overlay with one component, and with digests where that asks for them."""

    @functools.cache
    def rendered(overlay: str, component: str) -> list[Manifest]:
        before = ["redis"] if (overlay, component) == (SINGLE, "quotas") else []
        manifests = compose(
            tmp_path_factory.mktemp("composed"), overlay, *before, component,
            beside=NEXT if component == "canary-ray" else "",
        )  # fmt: skip
        if component == "digests":  # as an overlay's `images: [{name: …, digest: …}]` does
            for found in pods(manifests):
                for container in found.containers:
                    container["image"] = f"{container['image'].partition(':')[0]}@{DIGEST}"
        return manifests

    return lambda overlay, component: copy.deepcopy(rendered(overlay, component))


@pytest.mark.parametrize(
    ("overlay", "component"),
    [
        *((overlay, one) for overlay in (H100, PRIOR, SINGLE)
          for one in ("digests", "pull-secret", "priorities")),
        (SINGLE, "canary"),
        (SINGLE, "quotas"),
        (H100, "quotas"),
    ],
)  # fmt: skip
def test_with_a_component_every_rule_is_kept(
    composed: Callable[[str, str], list[Manifest]], overlay: str, component: str
) -> None:
    manifests = composed(overlay, component)
    rules = (*RULES, *component_rules.RULES)
    assert [text for rule in rules for text in rule(manifests)] == []


def of_cluster(manifests: list[Manifest], name: str) -> list[Manifest]:
    """What there would be without the other cluster of a canary."""
    twice, edge = {"RayService", "Job", "PodDisruptionBudget"}, "flowmo-edge"
    return [
        one
        for one in manifests
        if one["kind"] not in twice
        or one["metadata"]["name"] == edge
        or one["metadata"]["name"].endswith("-next") is name.endswith("-next")
    ]


@pytest.mark.parametrize("cluster", ["flowmo", "flowmo-next"])
def test_both_clusters_of_a_canary_keep_every_rule(
    composed: Callable[[str, str], list[Manifest]], cluster: str
) -> None:
    manifests = composed(H100, "canary-ray")
    change(manifests, EDGE, UPSTREAM, f"{cluster}-serve-svc:8000")
    alone = of_cluster(manifests, cluster)
    assert len(alone) == len(manifests) - 5
    assert [text for rule in RULES for text in rule(alone)] == []
    assert [text for rule in component_rules.RULES for text in rule(manifests)] == []


def test_the_documented_canary_leads_to_the_other_cluster_with_an_image_of_its_own(
    tmp_path: Path,
) -> None:
    text = (K8S.parent / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    (block,) = (one for one in text.split("```yaml\n") if "../overlays/h100-next]" in one)
    up = "/".join([".."] * len(tmp_path.resolve().parts))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "kustomization.yaml").write_text(
        f"resources: [../{up}{K8S}/{NEXT}]\n"
        "images: [{name: flowmo-serve, newName: REGISTRY/flowmo-serve, newTag: 0.2.0}]\n"
    )
    block = block.partition("```")[0].replace(f"../{NEXT}", "own")
    (tmp_path / "kustomization.yaml").write_text(block.replace("../", f"{up}{K8S}/"))
    manifests = render(tmp_path)
    images = {
        found.owner.partition(" ")[0]: found.containers[0]["image"] for found in pods(manifests)
    }
    assert images["RayService/flowmo-next"] == "REGISTRY/flowmo-serve:0.2.0"
    assert images["RayService/flowmo"] == "REGISTRY/flowmo-serve:0.1.0"
    (edge,) = (found for found in pods(manifests) if found.owner == EDGE)
    assert "flowmo-next-serve-svc:8000" in str(edge.containers[0]["env"])
    assert list(flows.services(manifests)) == list(component_rules.clusters(manifests)) == []


def test_the_canarys_serve_config_is_that_of_h100_with_engines_of_its_own() -> None:
    own, plain = (
        yaml.safe_load((K8S / overlay / "serve.yaml").read_text(encoding="utf-8"))
        for overlay in (NEXT, H100)
    )
    models = own["applications"][0]["args"]["models"]
    assert models["lo"]["engine_cache"] == "/engines/next"
    models["lo"]["engine_cache"] = "/engines"
    assert own == plain
    (service,) = of_kind(render(K8S / NEXT), "RayService")
    assert (
        yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"]["models"]["lo"][
            "engine_cache"
        ]
        == "/engines/next"
    )


@pytest.mark.parametrize(
    ("rule", "overlay", "component", "name", "path", "value", "complaint"),
    [
        ("digests", H100, "digests", "StatefulSet/flowmo-redis", f"{POD}.containers.0.image",
         "redis:8.2-bookworm", "redis:8.2-bookworm has no digest"),
        ("digests", H100, "digests", RAY, f"{GROUPS}.2.template.spec.initContainers.0.image",
         "flowmo-serve@sha256:0a", "has no digest"),
        ("digests", SINGLE, "digests", "ValidatingAdmissionPolicyBinding/flowmo-digests",
         "spec.validationActions", ["Audit"], "refuses nothing"),
        ("digests", SINGLE, "digests", "Namespace/flowmo", "metadata.name", "other",
         "refuses nothing in other"),
        ("quotas", SINGLE, "quotas", "NetworkPolicy/flowmo-redis-quotas", "spec.ingress", [],
         "does not reach StatefulSet/flowmo-redis"),
        ("quotas", SINGLE, "quotas", "NetworkPolicy/flowmo-quotas", "spec.egress.1", GONE,
         "cannot ask for the name"),
        ("quotas", SINGLE, "quotas", "Service/flowmo-redis", "metadata.name", "redis",
         "flowmo-redis is no Service"),
        ("quotas", H100, "quotas", RAY, f"{GROUPS}.0.template.spec.containers.0.env.2.value",
         "redis://flowmo-redis:6379/0", "database 0 is Ray's"),
        ("quotas", H100, "quotas", RAY, f"{GROUPS}.1.template.spec.containers.0.env.1",
         {"name": "FLOWMO_QUOTA_STORE", "value": "redis://flowmo-redis:6379/2"}, "different"),
        ("namespaces", SINGLE, "canary", ROUTE, "metadata.namespace", GONE, "is in None"),
        ("pull_secrets", H100, "pull-secret", RAY, f"{HEAD}.template.spec.imagePullSecrets", GONE,
         "head: pulls with nothing"),
        ("pull_secrets", H100, "pull-secret", "Job/flowmo-engines", f"{POD}.imagePullSecrets",
         [{"name": "registry"}], "pulls with ['registry']"),
        ("pull_secrets", PRIOR, "pull-secret", RAY, f"{GROUPS}.3.template.spec.imagePullSecrets",
         GONE, "generator: pulls with nothing"),
        ("priorities", PRIOR, "priorities", RAY, f"{GROUPS}.3.template.spec.priorityClassName",
         GONE, "generator: no priority"),
        ("priorities", H100, "priorities", RAY, f"{GROUPS}.0.template.spec.priorityClassName",
         GONE, "gateway: no priority"),
        ("priorities", H100, "priorities", "Deployment/flowmo-edge", f"{POD}.priorityClassName",
         "flowmo-edge", "no class flowmo-edge"),
        ("priorities", H100, "priorities", "PriorityClass/flowmo-upkeep", "value", 100000,
         "not below what serves"),
        ("priorities", H100, "priorities", "PriorityClass/flowmo-serving", "globalDefault", True,
         "whole cluster"),
        ("canary", SINGLE, "canary", ROLLOUT, "spec.workloadRef.name", "flow", "is not there"),
        ("canary", SINGLE, "canary", ROLLOUT, "spec.selector.matchLabels.app", "flowmo",
         "selector is not that"),
        ("canary", SINGLE, "canary", ROLLOUT, f"{CANARY}.abortScaleDownDelaySeconds", 30,
         "may still send"),
        ("canary", SINGLE, "canary", ROLLOUT, f"{CANARY}.canaryService", "flowmo", "leads to"),
        ("canary", SINGLE, "canary", ROLLOUT, f"{CANARY}.steps.0.setWeight", 60, "begin small"),
        ("canary", SINGLE, "canary", ROLLOUT, f"{CANARY}.steps.1", {"setWeight": 20}, "held"),
        ("canary", SINGLE, "canary", ROLLOUT, f"{CANARY}.analysis", GONE, "nobody judges"),
        ("canary", SINGLE, "canary", ROLLOUT, f"{CANARY}.analysis.templates.0.templateName", "x",
         "no analysis x"),
        ("canary", SINGLE, "canary", ROLLOUT, f"{CANARY}.analysis.args.1.name", "hash",
         "are others"),
        ("canary", SINGLE, "canary", ROUTE, "metadata.name", "flow", "no route flowmo/flowmo"),
        ("canary", SINGLE, "canary", ROUTE, "spec.rules.0.backendRefs.1.port", 80, "no Service's"),
        ("canary", SINGLE, "canary", ROUTE, "spec.rules.0.backendRefs.1.weight", 5, "before it"),
        ("canary", SINGLE, "canary", ROUTE, "spec.rules.0.timeouts.request", "60s", "gives up"),
        ("canary", SINGLE, "canary", "HorizontalPodAutoscaler/flowmo", "spec.scaleTargetRef.kind",
         "Deployment", "changes the Deployment"),
        ("canary", H100, "canary-ray", RAY_ROLLOUT, "spec.workloadRef.name", "edge",
         "is not there"),
        ("canary", H100, "canary-ray", RAY_ROLLOUT, "spec.replicas", 1, "one pod"),
        ("canary", H100, "canary-ray", EDGE, "spec.replicas", 2, "every apply gives"),
        ("canary", H100, "canary-ray", RAY_ROLLOUT, f"{CANARY}.canaryService", "flowmo-edge",
         "leads to"),
        ("canary", H100, "canary-ray", ROUTE, "spec.rules.0.timeouts.request", "70s", "gives up"),
        ("canary", H100, "canary-ray", RAY_ROLLOUT, f"{CANARY}.scaleDownDelaySeconds", 60,
         "may still send"),
        ("canary", H100, "canary-ray", RAY_ANALYSIS, "spec.metrics.0.failureCondition", "false",
         "does not end"),
        ("canary", H100, "canary-ray", RAY_ANALYSIS, "spec.metrics.0", GONE,
         "availability is not looked at"),
        ("clusters", H100, "canary-ray", RAY_ROLLOUT, f"{CANARY}.analysis.args.1.value",
         "flowmo-net", "flowmo-net is no RayService"),
        ("clusters", H100, "canary-ray", RAY_ROLLOUT, "spec.workloadRef.name", "edge",
         "leads to no cluster"),
        ("clusters", H100, "canary-ray", RAY_NEXT, f"{GROUPS}.2.template.metadata.labels.track",
         "flowmo", "decoder: its track is flowmo, and not flowmo-next"),
        ("clusters", H100, "canary-ray", "PodMonitor/flowmo-ray",
         "spec.podMetricsEndpoints.0.relabelings", [], "do not say of which cluster"),
        ("clusters", H100, "canary-ray", RAY_NEXT,
         f"{GROUPS}.2.template.spec.initContainers.0.command",
         ["sh", "-c", "cmp -s - /engines/lo.ready"], "wait for the same mark"),
        ("canary", SINGLE, "canary", ANALYSIS, "spec.metrics.0.failureCondition", "false",
         "does not end"),
        ("canary", SINGLE, "canary", ANALYSIS, "spec.metrics.0.failureLimit", -1, "never ends"),
        ("canary", SINGLE, "canary", ANALYSIS, "spec.metrics.1", GONE, "latency is not looked at"),
        ("canary", SINGLE, "canary", ANALYSIS, "spec.metrics.1.provider.prometheus.query",
         "sum(rate(x[5m])) / (1 - scalar(flowmo:latency:objective))", "no canary"),
    ],
)  # fmt: skip
def test_what_a_component_wires_wrong_is_refused(
    composed: Callable[[str, str], list[Manifest]],
    rule: str, overlay: str, component: str, name: str, path: str, value: Any, complaint: str,
) -> None:  # fmt: skip
    manifests = composed(overlay, component)
    change(manifests, name, path, value)
    found = list(getattr(component_rules, rule)(manifests))
    assert any(complaint in text for text in found), found


_CASE = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'flowmo_request_duration_seconds_count{{namespace="flowmo", pod="flowmo-{pod}-x", method="POST", route="/v1/detokenize", status="200"}}', values: '0+60x30'}}
      - {{series: 'flowmo_request_duration_seconds_count{{namespace="flowmo", pod="flowmo-{pod}-x", method="POST", route="/v1/tokenize", status="500"}}', values: '0+{failed}x30'}}
      - {{series: 'flowmo_request_duration_seconds_bucket{{namespace="flowmo", pod="flowmo-{pod}-x", method="POST", route="/v1/detokenize", status="200", le="1.0"}}', values: '0+48x30'}}
      - {{series: 'ray_serve_num_http_requests_total{{namespace="flowmo", track="{pod}", application="flowmo", method="POST", route="/", status_code="200"}}', values: '0+60x30'}}
      - {{series: 'ray_serve_num_http_requests_total{{namespace="flowmo", track="{pod}", application="flowmo", method="POST", route="/", status_code="500"}}', values: '0+{failed}x30'}}
      - {{series: 'ray_flowmo_request_duration_seconds_count{{namespace="flowmo", track="{pod}", method="POST", route="/v1/detokenize", status="200"}}', values: '0+60x30'}}
      - {{series: 'ray_flowmo_request_duration_seconds_bucket{{namespace="flowmo", track="{pod}", method="POST", route="/v1/detokenize", status="200", le="1.0"}}', values: '0+48x30'}}
    promql_expr_test:
      - {{expr: {availability}, eval_time: 20m, exp_samples: {first}}}
      - {{expr: {latency}, eval_time: 20m, exp_samples: {second}}}
"""  # noqa: E501


@pytest.mark.parametrize(("overlay", "component"), [(SINGLE, "canary"), (H100, "canary-ray")])
@pytest.mark.parametrize(
    ("pod", "failed", "first", "second"),
    [
        ("new", 60, [{"value": 500}], [{"value": 4}]),  # half failed, a fifth late
        ("new", 0, [{"value": 0}], [{"value": 4}]),
        ("old", 60, [], []),  # of another release: nothing to judge by
    ],
)
def test_the_burn_rates_of_a_canary_are_those_of_its_pods(
    composed: Callable[[str, str], list[Manifest]], tmp_path: Path, overlay: str, component: str,
    pod: str, failed: int, first: list[Any], second: list[Any],
) -> None:  # fmt: skip
    (analysis,) = of_kind(composed(overlay, component), "AnalysisTemplate")
    queries = {}
    for metric in analysis["spec"]["metrics"]:
        query = metric["provider"]["prometheus"]["query"]
        query = query.replace("{{args.namespace}}", "flowmo").replace("{{args.canary}}", "new")
        queries[metric["name"]] = yaml.safe_dump(f"round({query}, 0.001)", width=10000).strip()
    first, second = ([one | {"labels": "{}"} for one in wanted] for wanted in (first, second))
    case = _CASE.format(
        rules=RECORDING / "recording.yml", pod=pod, failed=failed, first=first, second=second,
        **queries,
    )  # fmt: skip
    (tmp_path / "case.yml").write_text(case)
    done = subprocess.run(
        [find_tool("promtool"), "test", "rules", str(tmp_path / "case.yml")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
