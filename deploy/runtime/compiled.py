"""The fast PyTorch path: blocks through torch.compile, on a GPU each half as CUDA graphs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn

from flowmo.deploy.block_kernels import need_fp8_products, usable, with_kernels
from flowmo.deploy.cuda_graphs import CudaGraphs
from flowmo.deploy.flash_attention import AttentionShape, use_fastest_flash_attention
from flowmo.deploy.graphs import Half, graph_of
from flowmo.deploy.padding import in_buckets
from flowmo.deploy.regional import compile_blocks
from flowmo.deploy.whole_decodes import WholeDecodes
from flowmo.model.attention import ranked_backends
from flowmo.model.config import SamplerConfig
from flowmo.model.errors import CompilationError
from flowmo.model.halves import bytes_of
from flowmo.model.inference import InferenceModel
from flowmo.model.inference_network import InferenceBlock
from flowmo.model.kernels.choice import NO_KERNELS, Kernels


class CompiledSteps:
    """A model's halves as :class:`flowmo.model.inference.Steps`; batch sizes compile at first use.

    Args:
        model: The model, shared and not copied; ``fp8`` replaces its linears' weights.
        buckets: The batch sizes, ascending; other numbers of rows are padded or split.
        compiled: Whether torch.compile is used; without it one can measure what it brings.
        cuda_graphs: Whether a GPU replays each batch size as a graph.
        fp8: Whether torchao computes linears in fp8, but those of input and output, and quantizes
            apart from the kernels; on Ada and Hopper.
        choose_attention: Whether to measure, on a GPU, the backends of attention and take the
            fastest.
        kernels: The hand-written kernels that blocks use; with all of them nothing is left to
            torch.compile. With ``fp8_rowwise`` blocks have weights of their own, and the model may
            free its modules (:meth:`InferenceModel.compute_with`).
        flash_attention: Whether FlashAttention-3 or -4, if installed and faster on this GPU, takes
            the place of PyTorch's own in the whole process.
        whole_decodes: Samplers by which a decode of one image is computed as a whole, on a GPU as
            one CUDA graph. For a process that has the device for itself: nothing else begins on it
            before the end. Not by the service, which decodes by steps.

    Raises:
        CompilationError: ``fp8`` is asked for without torchao or such a GPU, or kernels without
            Triton or a GPU that has what they need.
        ConfigError: ``whole_decodes`` are asked for of a model without decoder, or of one that was
            built for other times.
    """

    def __init__(
        self,
        model: InferenceModel,
        buckets: Sequence[int],
        *,
        compiled: bool = True,
        cuda_graphs: bool = True,
        fp8: bool = False,
        choose_attention: bool = True,
        kernels: Kernels = NO_KERNELS,
        flash_attention: bool = False,
        whole_decodes: Sequence[SamplerConfig] = (),
    ) -> None:
        self._buckets = tuple(buckets)
        on_gpu = model.device.type == "cuda"
        kernels = usable(kernels, model.device, model.dtype, fp8=fp8)
        self._own: dict[str, int] = {}
        if fp8:
            quantize(model)
            networks = {f"fp8 {half}": model.network(half) for half in model.halves}
            self._own = {name: bytes_of(network) for name, network in networks.items()}
        if on_gpu and flash_attention:
            use_fastest_flash_attention(attention_shape(model))
        if on_gpu and choose_attention:
            choose_backends(model)
        # As they are, and as they are called: on a GPU as graphs, which no other graph can hold.
        self._launched: dict[Half, Callable[..., Tensor]] = {}
        self._compute: dict[Half, Callable[..., Tensor]] = {}
        for half in model.halves:
            graph = graph_of(model, half)
            graph.network = with_kernels(graph.network, kernels)
            if kernels.fp8_rowwise:
                self._own[f"fp8 {half}"] = bytes_of(graph.network)
            compute: Callable[..., Tensor] = compile_blocks(graph) if compiled else graph
            self._launched[half] = compute
            self._compute[half] = CudaGraphs(compute) if on_gpu and cuda_graphs else compute
        self._whole = WholeDecodes(
            self._launched_velocity, model, whole_decodes, cuda_graphs=on_gpu and cuda_graphs
        )
        if self._whole.nbytes:
            self._own["modulation of whole decodes"] = self._whole.nbytes

    def memory_by_owner(self) -> dict[str, int]:
        """See :class:`flowmo.model.halves.HoldsMemory`."""
        return self._own

    def encode(self, images: Tensor) -> Tensor:
        """See :meth:`Steps.encode`."""
        return in_buckets(self._compute["encoder"], self._buckets, [images.float()])

    def velocity(self, x: Tensor, condition: Tensor, modulation: Tensor) -> Tensor:
        """See :meth:`Steps.velocity`."""
        return in_buckets(
            self._compute["decoder"], self._buckets, [x.float(), condition, modulation]
        )

    def _launched_velocity(self, x: Tensor, condition: Tensor, modulation: Tensor) -> Tensor:
        return in_buckets(
            self._launched["decoder"], self._buckets, [x.float(), condition, modulation]
        )

    def takes_whole(self, rows: int, sampler: SamplerConfig) -> bool:
        """See :class:`flowmo.model.halves.DecodesWhole`."""
        return self._whole.takes_whole(rows, sampler)

    def decode(self, start: Tensor, condition: Tensor, sampler: SamplerConfig) -> Tensor:
        """See :class:`flowmo.model.halves.DecodesWhole`."""
        return self._whole(start, condition, sampler)


def attention_shape(model: InferenceModel) -> AttentionShape:
    """What attention of a model's decoder is timed at."""
    shape = model.config.decoder
    patches = (model.config.image_size // model.config.patch_size) ** 2
    return AttentionShape(
        heads=shape.heads,
        tokens=model.config.code_length + patches,
        head_dim=shape.head_dim,
        dtype=model.dtype,
        device=model.device,
    )


def choose_backends(model: InferenceModel) -> None:
    """Measure the backends of attention at the decoder's shape; the model's blocks use them.

    The choice is the model's own: another model of the process, or a copy in float32 that this one
    is checked against, computes attention as it did.
    """
    backends = ranked_backends(**asdict(attention_shape(model)))
    for half in model.halves:
        for module in model.network(half).modules():
            if isinstance(module, InferenceBlock):
                module.attention_backends = backends


def quantize(model: InferenceModel) -> None:
    """Have the linears of both halves' blocks computed in fp8, in place.

    Weights are scaled once, a scale an output; activations as they come, a scale a row.

    Raises:
        CompilationError: The package torchao is missing, or the GPU has no fp8 products.
    """
    need_fp8_products(model.device)
    try:
        from torchao.quantization import (
            Float8DynamicActivationFloat8WeightConfig,
            PerRow,
            quantize_,
        )
    except ImportError as error:
        raise CompilationError(f"fp8 needs torchao ({error}): pip install torchao") from None
    # torchao would otherwise set Inductor's options and TF32 for the whole process, and with them
    # change what every other model of it computes in float32.
    config = Float8DynamicActivationFloat8WeightConfig(
        granularity=PerRow(), set_inductor_config=False
    )
    before = _precision()
    for half in model.halves:
        quantize_(model.network(half), config, filter_fn=is_inner_linear)
    if (after := _precision()) != before:
        raise CompilationError(
            f"torchao changed how this process computes in float32, from {before} to {after}; "
            f"take the version of torchao that pyproject.toml names"
        )


def _precision() -> tuple[bool, bool, str]:
    return (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.get_float32_matmul_precision(),
    )


def is_inner_linear(module: nn.Module, name: str) -> bool:
    """Whether a module is a linear of a block.

    Those of input and output are small, and their errors are seen as they are.

    Args:
        module: A module of one half.
        name: The module's qualified name in that half.
    """
    return isinstance(module, nn.Linear) and name.startswith("blocks.")
