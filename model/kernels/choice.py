"""Which hand-written kernels a block uses."""

import dataclasses
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Self

from torch import Tensor

from flowmo.model.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernels:
    """The switches of a serving block; all off is PyTorch alone, the form of every other device.

    Attributes:
        gelu_epilogue: The MLP's first product adds its bias and applies GELU before it writes.
        fused_qkv: One kernel norms and rotates q and k of both streams, and writes q, k and v as
            attention reads them.
        fused_norm: One kernel adds a gated update to both streams, norms the sums and modulates
            them for the sub-layer that follows.
        split_attention: Each stream's queries attend in a call of their own: the outputs are
            contiguous, so that the products after them copy nothing.
        txt_beside: The small txt stream is computed beside the img stream, in a stream of the
            device of its own; attention is split for it. Compiled code has one stream: there it is
            without effect, in a CUDA graph of launched kernels it is not.
        fp8_rowwise: The products' inputs and weights are in fp8, with a scale a token and an
            output. Where ``fused_norm`` is on, too, Triton quantizes inputs: that kernel what it
            norms, and one of its own, with GELU or without, the others; ``gelu_epilogue`` is then
            without effect. The only switch that changes numbers beyond their order of sums, so
            ``all`` leaves it out; and one that a block must be made for
            (:func:`flowmo.deploy.block_kernels.with_kernels`).
    """

    gelu_epilogue: bool = False
    fused_qkv: bool = False
    fused_norm: bool = False
    split_attention: bool = False
    txt_beside: bool = False
    fp8_rowwise: bool = False

    @classmethod
    def all(cls) -> Self:
        """Every switch on that leaves the numbers what they are."""
        return cls(**dict.fromkeys(cls._exact(), True))

    @classmethod
    def _exact(cls) -> list[str]:
        return [f.name for f in dataclasses.fields(cls) if f.name != "fp8_rowwise"]

    @classmethod
    def named(cls, names: str) -> Self:
        """Read switches as a command line writes them: ``gelu-epilogue,fused-qkv``, or ``all``.

        Args:
            names: The names of those that are on, with commas between; ``all`` among them for those
                of :meth:`all`, ``none`` or nothing for none.

        Raises:
            ConfigError: A name is unknown.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        wanted = [name.strip().replace("-", "_") for name in names.split(",") if name.strip()]
        if wanted == ["none"]:
            return cls()
        if "all" in wanted:
            wanted = [name for name in wanted if name != "all"] + cls._exact()
        if strange := [name for name in wanted if name not in known]:
            told = ", ".join(name.replace("_", "-") for name in known)
            raise ConfigError(
                f"there is no kernel {strange[0].replace('_', '-')!r}; there are {told}, and 'all' "
                f"and 'none'"
            )
        return cls(**dict.fromkeys(wanted, True))

    @property
    def need_triton(self) -> bool:
        """Whether Triton must be installed."""
        return self.fused_qkv or self.fused_norm


NO_KERNELS = Kernels()


def on_gpu(x: Tensor) -> bool:
    """Whether what a tensor is computed with can be a GPU's kernel."""
    return x.is_cuda


def triton_is_installed() -> bool:
    """Whether the kernels that are written in Triton can be imported."""
    return find_spec("triton") is not None
