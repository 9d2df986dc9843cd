"""The validation by CustomResourceDefinitions refuses what an API server would drop or refuse.

KubeRay's own are not kept here (``make k8s-check CRDS=FOLDER`` takes them from a folder).
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)

from tests.k8s import crds
from tests.k8s.manifests import K8S, Manifest, ray_service, render
from tests.k8s.test_manifests import CPU, H100

DEFINITION: Manifest = {
    "kind": "CustomResourceDefinition",
    "spec": {
        "group": "ray.io",
        "names": {"kind": "RayService"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "required": ["serveConfigV2"],
                                "properties": {
                                    "serveConfigV2": {"type": "string"},
                                    "delay": {"type": "integer", "nullable": True},
                                    "labels": {
                                        "type": "object",
                                        "additionalProperties": {"type": "string"},
                                    },
                                    "any": {
                                        "type": "object",
                                        "x-kubernetes-preserve-unknown-fields": True,
                                        "properties": {},
                                    },
                                },
                            }
                        },
                    }
                },
            }
        ],
    },
}


@pytest.mark.parametrize(
    ("spec", "version", "complaint"),
    [
        ({"serveConfigV2": "", "delay": None, "labels": {"a": "b"}, "any": {"x": 1}}, "v1", None),
        ({"serveConfigV2": "", "dealy": 1}, "v1", "dealy"),
        ({"serveConfigV2": 1}, "v1", "serveConfigV2: 1 is not of type 'string'"),
        ({"serveConfigV2": "", "labels": {"a": 1}}, "v1", "labels.a"),
        ({}, "v1", "required"),
        ({"serveConfigV2": ""}, "v2", "not served"),
    ],
)
def test_a_definition_refuses_what_it_does_not_know(
    spec: dict[str, Any], version: str, complaint: str | None
) -> None:
    manifest = {"apiVersion": f"ray.io/{version}", "kind": "RayService", "metadata": {"name": "x"}}
    found = list(crds.problems([manifest | {"spec": spec}], DEFINITION))
    assert (complaint is None) == (found == []), found
    assert complaint is None or complaint in found[0]


def test_the_command_says_what_it_found_and_when_nothing_was_validated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert crds.main([]) == crds.main([str(tmp_path / "none")]) == crds.main([str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "none is not there: nothing was validated" in said
    assert "has no CustomResourceDefinition" in said
    (tmp_path / "crd.yaml").write_text(yaml.safe_dump(DEFINITION))
    assert crds.main([str(tmp_path)]) == 1  # it lacks nearly all that we use
    assert "rayClusterConfig" in capsys.readouterr().out


@pytest.mark.parametrize("overlay", [H100, CPU])
def test_rays_own_parser_of_the_operators_spec_finds_what_replicas_ask_for(overlay: str) -> None:
    """Ray's autoscaler reads the RayCluster that KubeRay makes: groups, labels, cores and GPUs."""
    spec = ray_service(render(K8S / overlay))
    assert spec is not None
    cluster = spec["rayClusterConfig"]
    resource = {"metadata": {"name": "flowmo-x", "namespace": "flowmo"}, "spec": cluster}
    for group in cluster["workerGroupSpecs"]:
        group.setdefault("replicas", group["minReplicas"])  # KubeRay's default
    types = _derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]
    for group in cluster["workerGroupSpecs"]:
        found = types[group["groupName"]]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert found["labels"] == {"part": group["groupName"]}
        assert (found["min_workers"], found["max_workers"]) == (
            group["minReplicas"], group["maxReplicas"],
        )  # fmt: skip
        assert found["resources"]["CPU"] == int(limits["cpu"])
        assert found["resources"].get("GPU", 0) == int(limits.get("nvidia.com/gpu", 0))
    (head,) = (types[name] for name in types if name not in {"gateway", "encoder", "decoder"})
    assert head["resources"]["CPU"] == 0
