"""Manifests against the operators' own CustomResourceDefinitions, with unknown fields refused.

    python -m tests.k8s.crds FOLDER_OR_FILE…        # make k8s-check CRDS="…"

The definitions are KubeRay's (``helm show crds``, or its releases) and not kept here: they are a
megabyte of others' text for each version. An API server drops a field that a definition does not
have without a word; here it is an error.
"""

import functools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from tests.k8s.manifests import K8S, OVERLAYS, Manifest, compose, render

_WITH_COMPONENTS = (
    ("single", "canary", ""),
    ("single", "keda", ""),
    ("overlays/h100", "incremental-upgrade", ""),
    ("overlays/h100", "canary-ray", "overlays/h100-next"),
)


def definitions(paths: list[Path]) -> Iterator[tuple[str, Manifest]]:
    """Each definition of some files, with the file's name.

    Args:
        paths: Files, or folders with ``.yaml`` files.

    Raises:
        FileNotFoundError: A path is not there, or a folder has no definition.
    """
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there: nothing was validated")
        files = sorted(path.glob("*.y*ml")) if path.is_dir() else [path]
        found = [
            (file.name, document)
            for file in files
            for document in yaml.load_all(file.read_text(encoding="utf-8"), yaml.CSafeLoader)
            if document and document.get("kind") == "CustomResourceDefinition"
        ]
        if not found:
            raise FileNotFoundError(f"{path} has no CustomResourceDefinition")
        yield from found


def schema_of(definition: Manifest, version: str) -> Manifest | None:
    """The schema of one version, in which no object has a field that it does not name.

    Args:
        definition: A CustomResourceDefinition.
        version: Such as ``v1``; None comes back for one that it does not have.
    """
    for one in definition["spec"]["versions"]:
        if one["name"] == version and one.get("served"):
            closed: Manifest = _closed(one["schema"]["openAPIV3Schema"])
            # Kubernetes' own, of every object.
            closed["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}}
            return closed
    return None


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: {name: _closed(one) for name, one in value.items()}
        if key == "properties"
        else _closed(value)
        for key, value in schema.items()
    }
    keeps = schema.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in schema and not keeps and "additionalProperties" not in schema:
        made["additionalProperties"] = False
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        made["type"] = [schema["type"], "null"]
    return made


def problems(manifests: list[Manifest], definition: Manifest) -> Iterator[str]:
    """What is wrong with the manifests of the definition's kind.

    Args:
        manifests: Of any kind.
        definition: A CustomResourceDefinition.
    """
    spec = definition["spec"]
    for manifest in manifests:
        group, _, version = manifest["apiVersion"].rpartition("/")
        if (group, manifest["kind"]) != (spec["group"], spec["names"]["kind"]):
            continue
        schema = schema_of(definition, version)
        if schema is None:
            yield f"{manifest['kind']}: version {version} is not served"
            continue
        for error in Draft202012Validator(schema).iter_errors(manifest):
            yield f"{manifest['kind']}: {'.'.join(map(str, error.absolute_path))}: {error.message}"


@functools.cache
def everything() -> list[tuple[str, list[Manifest]]]:
    """Overlays, and what components add to one, by name."""
    made = [(overlay, render(K8S / overlay)) for overlay in OVERLAYS]
    for overlay, component, beside in _WITH_COMPONENTS:
        with tempfile.TemporaryDirectory() as folder:
            manifests = compose(Path(folder), overlay, component, beside=beside)
        made.append((f"{overlay} with {component}", manifests))
    return made


def main(arguments: list[str]) -> int:
    """The command; 1 if something is refused, or nothing could be validated."""
    if not arguments:
        print("name files or folders of CustomResourceDefinitions: nothing was validated")
        return 1
    failed = False
    try:
        for name, definition in definitions([Path(text) for text in arguments]):
            kind = definition["spec"]["names"]["kind"]
            for overlay, manifests in everything():
                count = sum(manifest["kind"] == kind for manifest in manifests)
                found = list(problems(manifests, definition))
                failed = failed or bool(found)
                print(f"{name}: {overlay}: {count} of kind {kind}, {len(found)} problems")
                print("".join(f"    {text}\n" for text in found), end="")
    except FileNotFoundError as error:
        print(error)
        return 1
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
