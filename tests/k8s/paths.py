"""What is configured is there: paths in mounts, keys in secrets, engines for their GPU, memory."""

import functools
import re
from collections.abc import Iterator

from flowmo.model.checkpoint import expected_shapes
from flowmo.model.config import PRESETS
from flowmo.model.prior.checkpoint import expected_prior_shapes
from flowmo.model.prior.config import PRIOR_PRESETS
from tests.k8s.manifests import (
    Manifest,
    Pods,
    of_kind,
    pods,
    quantity,
    ray_service,
    selects,
    serve_config,
)

# Made by the operator of the cluster as docs/kubernetes.md says: names, and the keys in them.
SECRET_KEYS = {
    "flowmo-api-keys": {"keys.toml"},
    "flowmo-redis": {"password"},
    "flowmo-ray-token": {"auth_token"},
}
# May be there or not: credentials of stores.
OPTIONAL_SECRETS = {"flowmo-store"}
# What the image sets; a pod that sets it, too, loses the image's.
IMAGE_VARIABLES = {"PATH", "PYTHONPATH", "HOME", "PYTHONUNBUFFERED", "FLOWMO_LOG_FORMAT"}
# Whose weights each part holds.
_WEIGHTS = {"encoder": "checkpoint", "decoder": "checkpoint", "generator": "prior"}
_GI = 1 << 30


def mounts(manifests: list[Manifest]) -> Iterator[str]:
    """Each configured path lies in a mount of the pods that use it, and of the right volume."""
    for found in pods(manifests):
        for container in found.containers:
            for path, writes in _own_paths(container):
                yield from _is_mounted(found, container, path, writes=writes)
    if ray_service(manifests) is None:
        return
    yield from _mounts_of_parts(manifests)
    for path, claims in _claims_of(manifests).items():
        if len(claims) > 1:
            yield f"{path} is in several claims: {', '.join(sorted(claims))}"


def _mounts_of_parts(manifests: list[Manifest]) -> Iterator[str]:
    """The paths of the Serve config, in the pods of each part."""
    (application,) = serve_config(manifests)["applications"]
    arguments = application["args"]
    keys = arguments.get("settings", {}).get("api_keys_file")
    for name, paths in _of_parts(arguments, keys).items():
        for found in pods(manifests):
            if found.group is None or found.labels.get("part") != name:
                continue
            for path in paths:
                for container in [
                    found.spec["containers"][0],
                    *found.spec.get("initContainers", ()),
                ]:
                    if container is found.spec["containers"][0] or path != keys:
                        yield from _is_mounted(found, container, path, writes=False)


def _of_parts(arguments: Manifest, keys: str | None) -> dict[str, list[str]]:
    def paths(*fields: str) -> list[str]:
        found = [model.get(field) for model in arguments["models"].values() for field in fields]
        return [path for path in found if str(path).startswith("/")]

    halves = paths("checkpoint", "engine_cache")
    return {
        "gateway": [keys] if keys else [],
        "encoder": halves,
        "decoder": halves,
        # The tokenizer's config says whose tokens the prior must know.
        "generator": [*halves, *paths("prior")],
    }


def _own_paths(container: Manifest) -> Iterator[tuple[str, bool]]:
    """Paths of a container's arguments and variables, and whether it writes there."""
    arguments = container.get("args", [])
    for before, value in zip(["", *arguments], arguments, strict=False):
        if value.startswith("/"):
            writes = before in {"--out", "--ready"}
            writes |= arguments[0] == "fetch" and arguments.index(value) == 2
            yield value, writes
    for one in container.get("env", ()):
        value = str(one.get("value", ""))
        if re.match(r"/(?!proc/)", value) and one["name"].startswith("FLOWMO_"):
            yield value, False


def _mount_of(container: Manifest, path: str) -> Manifest | None:
    for mount in container.get("volumeMounts", ()):
        if path == mount["mountPath"] or path.startswith(f"{mount['mountPath']}/"):
            found: Manifest = mount
            return found
    return None


def _is_mounted(found: Pods, container: Manifest, path: str, *, writes: bool) -> Iterator[str]:
    mount = _mount_of(container, path)
    if mount is None:
        yield f"{found.owner}: {path} of {container['name']} is in no mount"
        return
    volume: Manifest = next(
        (v for v in found.spec.get("volumes", ()) if v["name"] == mount["name"]), {}
    )
    source: Manifest = volume.get("persistentVolumeClaim") or volume.get("secret") or {}
    if writes and (mount.get("readOnly") or source.get("readOnly")):
        yield f"{found.owner}: {path} of {container['name']} is written, and is read-only"
    secret = str(source.get("secretName"))
    if secret in SECRET_KEYS:
        file = path.removeprefix(mount["mountPath"]).lstrip("/")
        if file not in SECRET_KEYS[secret]:
            yield f"{found.owner}: {file or path} is no key of the secret {secret}"


def _claims_of(manifests: list[Manifest]) -> dict[str, set[str]]:
    """The claims behind each top folder, over all pods: what one writes the other must read."""
    claims: dict[str, set[str]] = {}
    for found in pods(manifests):
        volumes = {volume["name"]: volume for volume in found.spec.get("volumes", ())}
        for container in found.containers:
            for mount in container.get("volumeMounts", ()):
                source = volumes.get(mount["name"], {}).get("persistentVolumeClaim")
                if source:
                    claims.setdefault(mount["mountPath"], set()).add(source["claimName"])
    return claims


def secrets(manifests: list[Manifest]) -> Iterator[str]:
    """Each secret, and each key of it, is among those that are made."""
    for found in pods(manifests):
        for container in found.containers:
            for one in container.get("env", ()):
                reference = one.get("valueFrom", {}).get("secretKeyRef")
                if reference:
                    yield from _key(found.owner, reference)
            for one in container.get("envFrom", ()):
                reference = one.get("secretRef", {})
                if reference.get("name") not in OPTIONAL_SECRETS or not reference.get("optional"):
                    yield f"{found.owner}: secret {reference.get('name')} is not made by anybody"
    spec = ray_service(manifests)
    if spec is None:
        return
    cluster = spec["rayClusterConfig"]
    redis = cluster["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"]
    yield from _key("gcsFaultToleranceOptions", redis)
    token = cluster["authOptions"].get("secretName")
    if "auth_token" not in SECRET_KEYS.get(token, ()):
        yield f"authOptions: the secret {token} has no auth_token"


def _key(owner: str, reference: Manifest) -> Iterator[str]:
    if reference["key"] not in SECRET_KEYS.get(reference["name"], ()):
        yield f"{owner}: the secret {reference['name']} has no key {reference['key']}"


def shared(manifests: list[Manifest]) -> Iterator[str]:
    """A claim of several pods can be mounted by several nodes."""
    modes = {
        claim["metadata"]["name"]: claim["spec"]["accessModes"]
        for claim in of_kind(manifests, "PersistentVolumeClaim")
    }
    users: dict[str, int] = {}
    for found in pods(manifests):
        for volume in found.spec.get("volumes", ()):
            name = volume.get("persistentVolumeClaim", {}).get("claimName")
            if name:
                users[name] = users.get(name, 0) + 1
    for name, count in users.items():
        if count > 1 and "ReadWriteMany" not in modes.get(name, ()):
            yield f"claim {name} is of {count} kinds of pods, and not ReadWriteMany"


def gpus(manifests: list[Manifest]) -> Iterator[str]:
    """Engines run where they were built, and the image waits there: one kind of GPU."""
    kinds: dict[str, list[str]] = {}
    for found in pods(manifests):
        selector = found.spec.get("nodeSelector")
        if selector:
            kinds.setdefault(str(sorted(selector.items())), []).append(found.owner)
    if len(kinds) > 1:
        yield f"several kinds of nodes: {kinds}"


def spread(manifests: list[Manifest]) -> Iterator[str]:
    """What is spread over nodes and zones is the pods themselves."""
    for found in pods(manifests):
        for constraint in found.spec.get("topologySpreadConstraints", ()):
            if not selects(constraint["labelSelector"], found.labels):
                yield f"{found.owner}: spreads other pods than itself"


@functools.cache
def _parameters(preset: str) -> int:
    if preset in PRIOR_PRESETS:
        shapes = expected_prior_shapes(PRIOR_PRESETS[preset]).values()
    else:
        shapes = expected_shapes(PRESETS[preset]).values()
    return sum(functools.reduce(lambda a, b: a * b, shape, 1) for shape in shapes)


def memory(manifests: list[Manifest]) -> Iterator[str]:
    """A replica's host memory holds the weights twice (as they are read), and Ray."""
    if ray_service(manifests) is None:
        return
    (application,) = serve_config(manifests)["applications"]
    for model in application["args"]["models"].values():
        for part, field in _WEIGHTS.items():
            if field in model:
                yield from _holds(manifests, part, str(model[field]).rpartition("/")[2])


def _holds(manifests: list[Manifest], part: str, preset: str) -> Iterator[str]:
    needed = 2 * 2 * _parameters(preset) + 2 * _GI
    for found in pods(manifests):
        if found.group is not None and found.labels.get("part") == part:
            limit = quantity(found.spec["containers"][0]["resources"]["limits"]["memory"])
            if limit < needed:
                yield f"{found.owner}: {limit / _GI:.1f} GiB, and {preset} needs {needed / _GI:.1f}"


def storage(manifests: list[Manifest]) -> Iterator[str]:
    """Local disk is asked for and bounded, and each emptyDir fits into it."""
    for found in pods(manifests):
        for container in found.containers:
            limits = container.get("resources", {}).get("limits", {})
            if "ephemeral-storage" not in limits:
                yield f"{found.owner}: {container['name']} has no limit of ephemeral-storage"
        for volume in found.spec.get("volumes", ()):
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield f"{found.owner}: {volume['name']} may fill the node's disk"


def commands(manifests: list[Manifest]) -> Iterator[str]:
    """Ours start ``flowmo``, or hold, or wait; Python finds the package where the image has it."""
    for found in pods(manifests):
        for container in found.containers:
            if not container["image"].startswith("flowmo-serve"):
                continue
            command = container.get("command")
            holds = found.owner.startswith("DaemonSet/")
            if holds and command != ["sleep", "infinity"]:
                yield f"{found.owner}: {command} does not hold the image"
            if not holds and command and command[:2] != ["sh", "-c"]:
                yield f"{found.owner}: {command} in the place of the image's entry point"
            for one in container.get("env", ()):
                if one["name"] in IMAGE_VARIABLES:
                    yield f"{found.owner}: {one['name']} in the place of the image's"
