"""Rendered manifests, and what is asked of them again and again."""

import copy
import functools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ("overlays/cpu-dev", "overlays/h100", "overlays/h100-prior", "single")

Manifest = dict[str, Any]


@functools.cache
def _rendered(folder: Path) -> tuple[Manifest, ...]:
    kubectl = Path(sys.executable).parent / "kubectl"  # of the development requirements
    command = [str(kubectl), "kustomize", str(folder)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(yaml.safe_load_all(text))


def render(folder: Path) -> list[Manifest]:
    """What ``kubectl apply -k`` would send, to be changed at will."""
    return copy.deepcopy(list(_rendered(folder)))


def compose(folder: Path, overlay: str, *components: str, beside: str = "") -> list[Manifest]:
    """An overlay, and perhaps one beside it, with components, rendered in an empty folder."""
    up = "/".join([".."] * len(folder.resolve().parts[1:]))
    named = ", ".join(f"{up}{K8S}/components/{name}" for name in components)
    resources = ", ".join(f"{up}{K8S}/{name}" for name in (overlay, beside) if name)
    (folder / "kustomization.yaml").write_text(
        f"namespace: flowmo\nresources: [{resources}]\ncomponents: [{named}]\n"
    )
    return render(folder)


@dataclass(frozen=True, slots=True)
class Pods:
    """One template of pods: which resource has it, its metadata and its spec."""

    owner: str
    labels: dict[str, str]
    spec: Manifest
    group: Manifest | None = None

    @property
    def containers(self) -> list[Manifest]:
        """Those that run, and those that run before."""
        return [*self.spec["containers"], *self.spec.get("initContainers", ())]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """The manifests of a kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def pods(manifests: list[Manifest]) -> Iterator[Pods]:
    """Every template of pods."""
    for manifest in manifests:
        name = f"{manifest['kind']}/{manifest['metadata']['name']}"
        if manifest["kind"] == "RayService":
            cluster = manifest["spec"]["rayClusterConfig"]
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                template = group["template"]
                owner = f"{name} {group.get('groupName', 'head')}"
                yield Pods(owner, template["metadata"]["labels"], template["spec"], group)
        elif "template" in manifest.get("spec", {}):
            template = manifest["spec"]["template"]
            yield Pods(name, template["metadata"]["labels"], template["spec"])


def ray_service(manifests: list[Manifest]) -> Manifest | None:
    """The spec of the RayService, if there is one."""
    found = of_kind(manifests, "RayService")
    return found[0]["spec"] if found else None


def serve_config(manifests: list[Manifest]) -> Manifest:
    """The Serve config of the RayService."""
    spec = ray_service(manifests)
    assert spec is not None
    config: Manifest = yaml.safe_load(spec["serveConfigV2"])
    return config


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector holds; of the operators ``In`` and ``Exists`` are known."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for wanted in selector.get("matchExpressions", ()):
        if wanted["operator"] == "Exists":
            if wanted["key"] not in labels:
                return False
            continue
        assert wanted["operator"] == "In"
        if labels.get(wanted["key"]) not in wanted["values"]:
            return False
    return True


def cpus(text: str | float) -> float:
    """Cores of a quantity."""
    text = str(text)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_DECIMAL = {"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def quantity(text: str | float) -> float:
    """The number that a quantity of Kubernetes is, such as ``16Gi`` or ``500m``."""
    text = str(text)
    number = text.rstrip("KMGTikm")
    unit = text[len(number) :]
    return float(number) * (_UNITS[unit] if unit in _UNITS else _DECIMAL[unit])
