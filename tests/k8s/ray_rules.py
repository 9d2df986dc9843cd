"""Rules of the RayService: the operator's unwritten ones, and that everything fits."""

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from packaging.version import Version
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray.serve.schema import ServeDeploySchema

from flowmo.service.cluster.config import ClusterConfig, Scaling
from flowmo.service.cluster.proxy import CALLBACK, CALLBACK_VARIABLE
from tests.k8s.manifests import Manifest, cpus, of_kind, pods, ray_service, serve_config

_LABEL = re.compile(r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$")
# Seconds that a Ray node lives after SIGTERM, whatever the pod's grace is.
_RAY_DRAIN = 30
# An annotation of a cluster that is not for production.
_UPDATES = "flowmo-serve/updates"
_LEAVING = ["python3", "-m", "flowmo.service.cluster.leaving"]


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Group(_Fields):
    rayStartParams: dict[str, str]
    template: Manifest
    labels: dict[str, str] = {}
    resources: dict[str, str] = {}


class _Workers(_Group):
    groupName: str
    minReplicas: Annotated[int, Field(ge=0)]
    maxReplicas: Annotated[int, Field(ge=0)]
    replicas: int | None = None
    idleTimeoutSeconds: Annotated[int, Field(ge=0)] | None = None
    priority: int | None = None


class _Autoscaler(_Fields):
    version: Literal["v1", "v2"]
    idleTimeoutSeconds: Annotated[int, Field(ge=0)] = 60
    resources: Manifest = {}
    securityContext: Manifest = {}
    volumeMounts: list[Manifest] = []
    image: str | None = None


class _Redis(_Fields):
    redisAddress: str
    redisPassword: Manifest
    redisUsername: Manifest = {}
    externalStorageNamespace: str = ""


class _Auth(_Fields):
    mode: Literal["disabled", "token"]
    secretName: str | None = None


class _Cluster(_Fields):
    rayVersion: str
    enableInTreeAutoscaling: bool
    autoscalerOptions: _Autoscaler
    gcsFaultToleranceOptions: _Redis
    authOptions: _Auth
    headGroupSpec: _Group
    workerGroupSpecs: list[_Workers]


class _Upgrade(_Fields):
    type: Literal["NewCluster", "NewClusterWithIncrementalUpgrade", "None"]
    clusterUpgradeOptions: Manifest = {}


class _Spec(_Fields):
    """The fields of RayService (KubeRay 1.7) that are used here."""

    serveConfigV2: str
    excludeHeadPodFromServeSvc: bool
    rayClusterDeletionDelaySeconds: Annotated[int, Field(ge=0)]
    upgradeStrategy: _Upgrade
    rayClusterConfig: _Cluster


def fields(manifests: list[Manifest]) -> Iterator[str]:
    """Names and types of fields: Kubernetes drops those that it does not know, without a word."""
    for manifest in of_kind(manifests, "RayService"):
        try:
            _Spec.model_validate(manifest["spec"])
        except ValidationError as error:
            for line in error.errors():
                yield f"{'.'.join(map(str, line['loc']))}: {line['msg']}"


def operator(manifests: list[Manifest]) -> Iterator[str]:
    """What the operator refuses or gets wrong, and no schema says."""
    for manifest in of_kind(manifests, "RayService"):
        name, cluster = manifest["metadata"]["name"], manifest["spec"]["rayClusterConfig"]
        # Names of clusters and pods are made from it.
        if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > 47:
            yield f"name {name}: a DNS label of at most 47 characters"
        token = cluster.get("authOptions", {}).get("mode") == "token"
        if not token:
            yield "Ray's ports ask for no token"
        elif Version(cluster["rayVersion"]) < Version("2.52"):
            yield f"Ray {cluster['rayVersion']} knows no token"
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        for group in groups:
            yield from _group(group, cluster)
        head = cluster["headGroupSpec"]
        if head["rayStartParams"].get("num-cpus") != "0":
            yield "work on the head: num-cpus is not 0"
        names = {
            entry["name"] for entry in head["template"]["spec"]["containers"][0].get("env", ())
        }
        if redis := names & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"}:
            yield f"{min(redis)} beside gcsFaultToleranceOptions"
        yield from _upgrade(manifest["spec"])


def _group(group: Manifest, cluster: Manifest) -> Iterator[str]:
    name = group.get("groupName", "head")
    started = set(group["rayStartParams"]) & {"num-cpus", "num-gpus", "memory", "resources"}
    if started and group.get("resources"):
        yield f"{name}: {min(started)} in rayStartParams beside resources"
    if "labels" in group["rayStartParams"]:
        yield f"{name}: labels belong to the group, not into rayStartParams"
    for key, value in group.get("labels", {}).items():
        if not _LABEL.match(value) or not _LABEL.match(key.rpartition("/")[2]):
            yield f"{name}: {key}={value} is no label"
    if group.get("minReplicas", 0) > group.get("maxReplicas", math.inf):
        yield f"{name}: minReplicas above maxReplicas"
    policy = group["template"]["spec"].get("restartPolicy", "Never")
    if cluster["autoscalerOptions"]["version"] == "v2" and policy != "Never":
        yield f"{name}: restartPolicy {policy} with the autoscaler v2"
    for container in group["template"]["spec"]["containers"]:
        if "readinessProbe" in container or "livenessProbe" in container:
            yield f"{name}: a probe in the place of the operator's, which knows Serve's proxy"


def _upgrade(spec: Manifest) -> Iterator[str]:
    strategy = spec["upgradeStrategy"]
    options = strategy.get("clusterUpgradeOptions", {})
    incremental = strategy["type"] == "NewClusterWithIncrementalUpgrade"
    if incremental != bool(options):
        yield "clusterUpgradeOptions go with NewClusterWithIncrementalUpgrade, and only with it"
    if incremental and options.get("stepSizePercent", 0) > options.get("maxSurgePercent", 100):
        yield "stepSizePercent above maxSurgePercent"


def versions(manifests: list[Manifest], constraints: str) -> Iterator[str]:
    """The image's Ray is the one that the operator is told of."""
    pinned = re.search(r"^ray==(\S+)", constraints, flags=re.MULTILINE)
    assert pinned is not None
    for manifest in of_kind(manifests, "RayService"):
        told = manifest["spec"]["rayClusterConfig"]["rayVersion"]
        if told != pinned[1]:
            yield f"rayVersion {told}, and the image has {pinned[1]}"


def config(manifests: list[Manifest]) -> Iterator[str]:
    """The Serve config is one for Ray, and for us."""
    if ray_service(manifests) is None:
        return
    text = serve_config(manifests)
    try:
        ServeDeploySchema.model_validate(text)
        parsed = _cluster_config(text)
    except (ValidationError, ValueError) as error:
        yield f"the Serve config: {error}"
        return
    settings = parsed.gateway_settings()
    http = text.get("http_options", {})
    if http.get("host") != "0.0.0.0":
        yield "proxies listen to their own pod only"
    if http.get("request_timeout_s", math.inf) <= settings.max_deadline_seconds:
        yield "the proxy gives up before the longest deadline"
    for found in pods(manifests):
        if found.group is None:
            continue
        ports = [
            port["containerPort"]
            for port in found.spec["containers"][0]["ports"]
            if port["name"] == "serve"
        ]
        if ports != [http.get("port")]:
            listens = http.get("port")
            yield f"{found.owner}: its port serve is {ports}, and proxies listen on {listens}"
    for found in pods(manifests):
        variables = {
            one["name"]: one.get("value") for c in found.containers for one in c.get("env", ())
        }
        if found.group is not None and variables.get(CALLBACK_VARIABLE) != CALLBACK:
            yield f"{found.owner}: its proxy answers in plain text, without {CALLBACK_VARIABLE}"
    keys = settings.api_keys_file
    if keys is None and not any("FLOWMO_ALLOW_ANONYMOUS" in str(f.spec) for f in pods(manifests)):
        yield "no keys, and nothing says that anybody may ask"


def endings(manifests: list[Manifest]) -> Iterator[str]:
    """Pods and old clusters stay until what was begun is finished."""
    spec = ray_service(manifests)
    if spec is None:
        return
    parsed = _cluster_config(serve_config(manifests))
    needed = parsed.drain_seconds + _RAY_DRAIN
    for found in pods(manifests):
        if found.group is None or "groupName" not in found.group:  # no request is on the head
            continue
        grace = found.spec.get("terminationGracePeriodSeconds", 30)
        (container,) = found.spec["containers"]
        *command, pause = (
            container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["0"])
        )
        if command != _LEAVING:
            yield (
                f"{found.owner} has {_RAY_DRAIN} s after SIGTERM whatever its grace, and requests "
                f"may take {parsed.gateway_settings().max_deadline_seconds:g} s: no hook before it"
            )
        elif float(pause) < parsed.drain_seconds:
            yield f"{found.owner}: the hook ends after {pause} s, before its replicas do"
        if grace < max(needed, float(pause) + _RAY_DRAIN):
            yield f"{found.owner} is killed after {grace} s, and may need {needed:g} s"
    if spec["rayClusterDeletionDelaySeconds"] < needed:
        yield "the old cluster of an update ends before its requests do"


def waiting(manifests: list[Manifest]) -> Iterator[str]:
    """Weights come before engines, and engines before replicas."""
    spec = ray_service(manifests)
    if spec is None:
        return
    (application,) = serve_config(manifests)["applications"]
    for model in application["args"]["models"].values():
        for field, parts in (("checkpoint", {"encoder", "decoder"}), ("prior", {"generator"})):
            folder = str(model.get(field, ""))
            if folder.startswith("/"):
                yield from _waits(manifests, parts, folder, str(model.get("engine_cache")))


def _waits(manifests: list[Manifest], parts: set[str], folder: str, engines: str) -> Iterator[str]:
    jobs = [found for found in pods(manifests) if found.owner.startswith("Job/")]
    brought, told = False, []
    for job in jobs:
        # What is before the last runs in its order; the last when all of them have ended.
        for one in (*job.spec.get("initContainers", ()), *job.spec["containers"]):
            arguments = one.get("args", [""])
            if arguments[0] == "fetch" and folder in arguments:
                brought = True
            if "--ready" in arguments and folder in arguments:
                told.append(arguments[arguments.index("--ready") + 1])
                if not brought:
                    yield f"{one['name']} builds engines of {folder} before it is there"
    if not brought:
        yield f"nobody brings {folder}"
    for found in pods(manifests):
        if found.group is None or found.labels.get("part") not in parts:
            continue
        scripts = [str(one.get("command")) for one in found.spec.get("initContainers", ())]
        mark = f"{engines}/{folder.rpartition('/')[2]}.ready"
        if not any(mark in text and f"{folder}/config.json" in text for text in scripts):
            yield f"{found.owner} begins before its engines are there"
        elif mark not in told:
            yield f"{found.owner} waits for {mark}, which nobody writes"


def _deployments(parsed: ClusterConfig) -> dict[str, Scaling]:
    """The replicas of each deployment, by its name."""
    found = {"gateway": parsed.gateway}
    for name, model in parsed.models.items():
        found |= {f"encoder-{name}": model.encoder, f"decoder-{name}": model.decoder}
        if model.prior is not None:
            found[f"generator-{name}"] = model.generator
    return found


def capacity(manifests: list[Manifest]) -> Iterator[str]:
    """Every replica has a kind of pod, and as many pods as may be hold as many as may be."""
    spec = ray_service(manifests)
    if spec is None:
        return
    groups = spec["rayClusterConfig"]["workerGroupSpecs"]
    parsed = _cluster_config(serve_config(manifests))
    wanted: dict[str, list[Scaling]] = {group["groupName"]: [] for group in groups}
    for name, scaling in _deployments(parsed).items():
        fitting = [
            group["groupName"] for group in groups
            if scaling.labels and scaling.labels.items() <= group.get("labels", {}).items()
        ]  # fmt: skip
        if len(fitting) != 1:
            yield f"{name}: its labels {dict(scaling.labels)} fit {len(fitting)} groups"
        for group in fitting:
            wanted[group].append(scaling)
    for group in groups:
        yield from _fits(group, wanted[group["groupName"]])


def redundancy(manifests: list[Manifest]) -> Iterator[str]:
    """Two of each kind, on pods of their own, unless it says that updates may interrupt."""
    spec = ray_service(manifests)
    if spec is None:
        return
    (service,) = of_kind(manifests, "RayService")
    if service["metadata"].get("annotations", {}).get(_UPDATES) == "interrupt":
        return
    parsed = _cluster_config(serve_config(manifests))
    for name, scaling in _deployments(parsed).items():
        if scaling.min_replicas < 2:
            yield f"{name}: one replica at least, and none while it is replaced"
    for group in spec["rayClusterConfig"]["workerGroupSpecs"]:
        if group["minReplicas"] < 2:
            yield f"{group['groupName']}: one pod at least, and none when its node is lost"


def _fits(group: Manifest, scalings: list[Scaling]) -> Iterator[str]:
    name = group["groupName"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    # A slice (MIG) is none of those that Ray counts by itself.
    told = group["rayStartParams"].get("num-gpus", limits.get("nvidia.com/gpu", 0))
    have = {"num_cpus": cpus(limits["cpu"]), "num_gpus": float(told)}
    devices = sum(float(limits[key]) for key in limits if key.startswith("nvidia.com/"))
    if devices != have["num_gpus"]:
        yield f"{name}: Ray is told of {have['num_gpus']:g} GPUs, and a pod has {devices:g}"
    for resource, amount in have.items():
        for count, bound in (("minReplicas", "min_replicas"), ("maxReplicas", "max_replicas")):
            needed, per_pod = 0.0, []
            for scaling in scalings:
                one = getattr(scaling, resource)
                needed += one * getattr(scaling, bound)
                per_pod.append(one)
            if max(per_pod, default=0) > amount:
                yield f"{name}: a replica needs {max(per_pod):g} {resource}, a pod has {amount:g}"
            elif needed > amount * group[count]:
                yield (
                    f"{name}: {bound} need {needed:g} {resource}, and {count} pods have "
                    f"{amount * group[count]:g}"
                )
        if amount and not any(getattr(scaling, resource) for scaling in scalings):
            yield f"{name}: nobody uses its {resource}"


def _cluster_config(config: Manifest) -> ClusterConfig:
    (application,) = config["applications"]
    return ClusterConfig.model_validate(application["args"])


def arguments(config: Manifest) -> Any:
    """The part of a Serve config that is ours."""
    return _cluster_config(config).model_dump(mode="json")
