"""How one model is loaded and computed, in one process and on a Ray cluster alike."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from flowmo.service.engine.calls import DEFAULT_MAX_QUEUED_REQUESTS, Batching
from flowmo.service.engine.sizes import CPU_MAX_BATCH, GPU_MAX_BATCH, TORCH
from flowmo.service.setting import Panel, setting

# The demo model, which comes with the package.
DEFAULT_CHECKPOINT = "tiny"

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class RunnerConfig(BaseModel):
    """One model: what is loaded, where it is computed and by what; validated, frozen.

    Raises:
        pydantic.ValidationError: A value is unknown or out of its range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str = setting(
        Panel.MODEL,
        "The model: the name of one that comes with the package, a folder, a hub repository or a "
        "published file of one (owner/name:file.pth).",
        default=DEFAULT_CHECKPOINT,
    )
    preset: str | None = setting(
        Panel.MODEL,
        "The config of a published file, which is converted at its first use.",
        default=None,
    )
    prior: str | None = setting(
        Panel.MODEL,
        "The prior that generates tokens of the model, which must be its tokenizer: prior-tiny, "
        "which comes with the package, a folder or a hub repository (docs/generation.md).",
        default=None,
    )
    device: str = setting(
        Panel.MODEL, "The device that computes: auto, cpu, cuda or cuda:N.", default="auto"
    )
    dtype: Dtype = setting(
        Panel.MODEL,
        "The dtype of weights and activations; auto is bfloat16 on a GPU, float32 elsewhere.",
        default="auto",
    )
    threads: int | None = setting(
        Panel.ENGINE,
        "CPU threads for one operation; 0 measures how many are quickest.",
        default=None,
        unset="PyTorch's own choice, within a container's quota",
        ge=0,
    )
    runner: str = setting(
        Panel.ENGINE,
        "What computes: torch, compiled, compiled-fp8, kernels, kernels-fp8, onnxruntime or "
        "tensorrt (docs/compiling.md), or module:function that makes a runner.",
        default=TORCH,
    )
    engine_cache: Path | None = setting(
        Panel.ENGINE,
        "The folder of exported graphs and engines.",
        default=None,
        unset="in the user's cache folder",
    )
    build_engines: bool = setting(
        Panel.ENGINE,
        "Make what is missing in the engine cache when the server starts.",
        default=False,
    )
    max_batch: int | None = setting(
        Panel.ENGINE,
        "The most rows of one batch.",
        default=None,
        unset=f"{CPU_MAX_BATCH} on a CPU, {GPU_MAX_BATCH} on a GPU",
        ge=2,
    )
    max_queued_requests: int = setting(
        Panel.ENGINE,
        "Pictures inside each engine of a model at once, waiting or computed; more get 429.",
        default=DEFAULT_MAX_QUEUED_REQUESTS,
        ge=1,
    )
    batching: Batching = setting(
        Panel.ENGINE,
        "How decodes form batches; request and single are there to be compared with step.",
        default="step",
    )
