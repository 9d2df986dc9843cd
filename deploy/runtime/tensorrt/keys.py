"""What an engine is good for: it runs with the same library, GPU and weights only."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from flowmo.deploy.graphs import Part
from flowmo.model.errors import CompilationError
from flowmo.model.files import replacing_file


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineKey:
    """All that an engine depends on.

    Attributes:
        half: ``encoder`` or ``decoder``; ``prior`` is a whole one.
        fingerprint: The fingerprint of the weights.
        dtype: The dtype of weights and activations.
        attention: The form of attention in the exported graph.
        library: ``tensorrt`` or ``tensorrt_rtx``.
        version: The library's version.
        architecture: ``sm90`` and the like.
        buckets: The batch sizes, one optimization profile each, in this order.
        quantization: What linears compute in beside the dtype: none or fp8.
    """

    half: Part
    fingerprint: str
    dtype: str
    attention: str
    library: str
    version: str
    architecture: str
    buckets: tuple[int, ...]
    quantization: str = "none"

    @property
    def file_name(self) -> str:
        """A file name that people can read, and another for every other key."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return (
            f"{self.half}-{self.fingerprint[:12]}-{self.dtype}-{self.architecture}-{digest[:12]}"
            ".engine"
        )

    def differences(self, other: Self) -> list[str]:
        """What differs from another key, for people: ``field: this, not that``."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{k}: {mine[k]}, not {theirs[k]}" for k in mine if mine[k] != theirs[k]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What lies beside an engine file, in ``NAME.engine.json``.

    Attributes:
        key: What the engine depends on.
        size: The size of the engine file, in bytes.
        sha256: The SHA-256 of the engine file, hex. An engine is code: what has been changed is not
            loaded.
        bindings: The inputs and outputs with dtype and shape, the batch size left out.
        report: What the engine is made of (:func:`flowmo.deploy.tensorrt.report.layer_report`).
        seconds: The time that the building took.
        refittable: Whether its weights can be exchanged.
    """

    key: EngineKey
    size: int
    sha256: str
    bindings: dict[str, dict[str, Any]]
    report: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    refittable: bool = False


def write_engine(folder: Path, engine: bytes, manifest: Manifest) -> Path:
    """Write engine and manifest; a reader never sees half of either."""
    path = folder / manifest.key.file_name
    text = json.dumps(asdict(manifest), indent=2) + "\n"
    for target, content in ((path, engine), (_manifest_path(path), text.encode())):
        with replacing_file(target) as partial:
            partial.write_bytes(content)
    return path


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of an engine file.

    Raises:
        CompilationError: There is none, or none of this release.
    """
    manifest_path = _manifest_path(path)
    try:
        content = json.loads(manifest_path.read_text(encoding="utf-8"))
        key = dict(content["key"])
        key["buckets"] = tuple(key["buckets"])
        return Manifest(**{**content, "key": EngineKey(**key)})
    except FileNotFoundError:
        raise CompilationError(
            f"{path} has no {manifest_path.name}, which says what it is good for; build it again "
            f"with flowmo build-engine"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise CompilationError(
            f"{manifest_path} is not a manifest of this release ({error}); build the engine again "
            f"with flowmo build-engine"
        ) from None


def read_engine(path: Path, key: EngineKey) -> tuple[bytes, Manifest]:
    """Read an engine that is good for ``key``, and verify it.

    Raises:
        CompilationError: The engine is missing, changed, or good for something else.
    """
    if not path.is_file():
        raise CompilationError(f"there is no engine {path}; build it with flowmo build-engine")
    manifest = read_manifest(path)
    if wrong := manifest.key.differences(key):
        raise CompilationError(
            f"{path} is for another use ({'; '.join(wrong)}); build one for this with "
            f"flowmo build-engine"
        )
    engine = path.read_bytes()
    if len(engine) != manifest.size or digest_of(engine) != manifest.sha256:
        raise CompilationError(
            f"{path} has {len(engine)} bytes that are not the {manifest.size} that were built; "
            f"it is not loaded: delete it and build it again"
        )
    return engine, manifest


def digest_of(engine: bytes) -> str:
    """The SHA-256 of data, in hex."""
    return hashlib.sha256(engine).hexdigest()


def current_architecture(device: torch.device | None = None) -> str:
    """The architecture of a CUDA device, as ``sm90``.

    Args:
        device: The device; the current one by default.

    Raises:
        CompilationError: There is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise CompilationError(
            "this machine has no CUDA device; engines run on GPUs only. To build one for another "
            "machine's GPU name its architecture, such as --architecture sm89 (TensorRT-RTX)"
        )
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm{major}{minor}"


def _manifest_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")
