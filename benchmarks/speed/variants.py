"""The ways to compute a half that are compared, all with the same weights and inputs.

Each takes float32 inputs and gives a float32 output: the encoder's images and code, or a decoder
step's noisy images, times and condition, and velocity.
"""

import importlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowmo.deploy.buckets import powers_of_two
from flowmo.deploy.compiled import CompiledSteps
from flowmo.deploy.export import export
from flowmo.deploy.graphs import HALVES, Half
from flowmo.deploy.onnx_runtime import OnnxSteps
from flowmo.deploy.runners import Kind, Runtime, install
from flowmo.model.config import preset
from flowmo.model.errors import FlowMoError
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.model.kernels.choice import Kernels

# images, or x, times and condition
Compute = Callable[..., Tensor]
# The published sampler, whatever a checkpoint's own is.
SAMPLER = preset("lo").sampler

PLAIN = "plain float32"
# Variants that are installed as a service does it, after the check before serving.
_RUNNERS: dict[str, Kind] = {
    "compiled-fp8": "compiled-fp8",
    "kernels-fp8": "kernels-fp8",
    "tensorrt": "tensorrt",
}
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


class Variant(dict[Half, Compute]):
    """Halves, and what makes a whole picture of one row where that is not a loop over steps.

    Attributes:
        decode: Takes noise [1, 3, S, S] and condition [1, K, D + 1], and decodes by
            :data:`SAMPLER`.
    """

    decode: Compute | None = None


class Subject:
    """A network, and what its variants share.

    Args:
        network: on the device, float32, in evaluation mode.
        checkpoint: folder that has the same weights; made on demand for a preset's random ones.
    """

    def __init__(self, network: FlowMo, checkpoint: Path | None, stack: ExitStack) -> None:
        self.network = network
        self.device = next(network.parameters()).device
        self._checkpoint, self._stack = checkpoint, stack

    @property
    def checkpoint(self) -> Path:
        """A folder with these weights."""
        if self._checkpoint is None:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
            self.network.save_pretrained(folder)
            self._checkpoint = folder
        return self._checkpoint

    def folder(self) -> Path:
        """An empty one that goes with the run."""
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory()))


def subject(name: str, device: torch.device, stack: ExitStack) -> Subject:
    """A checkpoint folder, or a preset with random weights.

    Args:
        name: path of a folder, or of a preset.
        device: where to.
        stack: that ends with the run.
    """
    if Path(name).is_dir():
        network = FlowMo.from_pretrained(name)
        return Subject(network.float().to(device).eval(), Path(name), stack)
    torch.manual_seed(0)
    network = FlowMo(preset(name))
    # As large as trained ones: the published initialization has layers of zeros.
    for key, parameter in network.named_parameters():
        mean = 1.0 if key.endswith(".scale") else 0.0
        std = 0.02 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
        torch.nn.init.normal_(parameter, mean, std)
    return Subject(network.to(device).eval(), None, stack)


def plain(subject: Subject, half: Half) -> Compute:
    """The training form in float32, eager: the network as SPEC describes it."""
    network = subject.network

    @torch.inference_mode()
    def encode(images: Tensor) -> Tensor:
        return network.encode(images)

    @torch.inference_mode()
    def step(x: Tensor, times: Sequence[float], condition: Tensor) -> Tensor:
        return network.velocity(x, torch.tensor(times, device=x.device), condition)

    return encode if half == "encoder" else step


def of_model(model: InferenceModel, half: Half) -> Compute:
    """The serving form, by whatever computes it."""

    def step(x: Tensor, times: Sequence[float], condition: Tensor) -> Tensor:
        return model.velocity(x, times, condition)

    return model.encode if half == "encoder" else step


def make(name: str, subject: Subject, batches: Sequence[int]) -> Variant:
    """Both halves of a variant, and its whole decode if it has one.

    Args:
        name: :data:`PLAIN`, or one of :func:`names`.
        subject: The network that is measured.
        batches: sizes that will be asked for.

    Raises:
        FlowMoError: it is not to be had here; the message says why.
        ValueError: an unknown name.
    """
    if name == PLAIN:
        return Variant({half: plain(subject, half) for half in HALVES})
    kind, _, rest = name.partition(" ")
    dtype, *changes = rest.split(" ")
    if dtype not in DTYPES:
        raise ValueError(f"unknown variant {name!r}; there are {names(cuda=True)}")
    model = InferenceModel(subject.network, dtype=DTYPES[dtype], device=subject.device)
    buckets = tuple(sorted({*batches, *powers_of_two(max(batches))}))
    options = _options(changes)
    if kind == "compiled":
        model.compute_with(CompiledSteps(model, buckets, **options))
    elif kind == "onnxruntime":
        folder = subject.folder()
        for half in HALVES:
            export(model, folder, half)
        model.compute_with(OnnxSteps(folder, model, threads=torch.get_num_threads()))
    elif kind in _RUNNERS:
        runtime = Runtime(kind=_RUNNERS[kind], cache=subject.folder(), build=True)
        install(model, str(subject.checkpoint), runtime, buckets)
    elif kind != "serving":
        raise ValueError(f"unknown variant {name!r}; there are {names(cuda=True)}")
    made = Variant({half: of_model(model, half) for half in HALVES})
    if "whole_decodes" in options:
        made.decode = lambda x, condition: model.decode(
            condition[..., :-1], start=x, sampler=SAMPLER
        )
    return made


def _options(changes: Sequence[str]) -> dict[str, Any]:
    """The keywords of CompiledSteps that a variant's words after its dtype are."""
    options: dict[str, Any] = {}
    word = ""
    for change in changes:
        if change in {"with", "without"}:
            word = change
        elif change == "flash-attention":
            options["flash_attention"] = word == "with"
        elif change == "whole-decode":
            options["whole_decodes"] = (SAMPLER,)
        elif word == "with":
            options["kernels"] = Kernels.named(change.replace("+", ","))
        else:
            options[change.replace("-", "_")] = False
    return options


def names(*, cuda: bool) -> list[str]:
    """Those that make sense on a kind of device; the first is what the others are compared with."""
    if not cuda:
        return [
            PLAIN,
            "serving float32",
            "compiled float32",
            "onnxruntime float32",
            "serving bf16",
            "compiled bf16",
            "compiled bf16 without compiled with whole-decode",
        ]
    return [
        PLAIN,
        "serving float32",
        "serving bf16",
        "compiled bf16",
        "compiled bf16 without cuda-graphs",
        "compiled bf16 without compiled",
        "compiled bf16 without choose-attention",
        *(
            f"compiled bf16 with {kernel}"
            for kernel in ("gelu-epilogue", "fused-qkv", "fused-norm")
        ),
        "compiled bf16 with fused-qkv+split-attention",
        "compiled bf16 with all",
        "compiled bf16 without compiled with all",
        "compiled bf16 without compiled with flash-attention all",
        "compiled bf16 with whole-decode",
        "compiled bf16 without compiled with all whole-decode",
        "compiled bf16 with fp8-rowwise",
        "compiled bf16 with all+fp8-rowwise",
        "compiled bf16 without compiled with all+fp8-rowwise",
        "compiled bf16 without compiled with flash-attention all+fp8-rowwise",
        "compiled bf16 without compiled with all+fp8-rowwise whole-decode",
        "compiled-fp8 bf16",
        "kernels-fp8 bf16",
        "tensorrt bf16",
    ]


def outside(path: str, subject: Subject) -> Variant:
    """Somebody else's implementation.

    Args:
        path: ``module:function``; the function takes the network's config and its state dict (the
            published names) on the device, and gives a mapping from half to a function as above.
        subject: The network that is measured.
    """
    module, _, function = path.partition(":")
    made: Mapping[str, Any] = getattr(importlib.import_module(module), function)(
        subject.network.config, subject.network.state_dict()
    )
    return Variant({half: made[half] for half in HALVES if half in made})


def available(
    wanted: Sequence[str], subject: Subject, batches: Sequence[int]
) -> tuple[dict[str, Variant], dict[str, str]]:
    """The variants that can be had here, and why the others cannot."""
    found, missing = {}, {}
    for name in wanted:
        try:
            found[name] = make(name, subject, batches)
        except FlowMoError as error:
            missing[name] = str(error)
    return found, missing
