"""Whole decodes of one image by fixed samplers, each on a GPU a single CUDA graph.

A decode by steps launches a graph a step, and between them, from Python, guidance and Euler's
update. Here all of it is one launch. That is for whoever has the device for himself: nothing else
can begin before its end. The service's engine does not use it, because it promises a request that
comes a place in the next tick (docs/decisions/0035-whole-decodes.md).
"""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from flowmo.deploy.cuda_graphs import CudaGraphs
from flowmo.model.config import SamplerConfig
from flowmo.model.decoding import decode_modulated
from flowmo.model.inference import InferenceModel
from flowmo.model.sampler import time_grid

# Of what is decoded at once: a larger batch fills the device, and its launches are hidden.
ROWS = 1


class WholeDecodes:
    """Decodes by certain samplers, the modulation of their times constants in them.

    Args:
        velocity: A step of any number of rows, of x, condition and modulation, that can be
            captured: it is not a graph itself.
        model: Gives the modulation.
        samplers: Those whose decodes are whole.
        cuda_graphs: Whether each is captured, at its first call; without it the same function is
            called.

    Raises:
        ConfigError: The model has no decoder, or was built for other times than a sampler's.
    """

    def __init__(
        self,
        velocity: Callable[[Tensor, Tensor, Tensor], Tensor],
        model: InferenceModel,
        samplers: Sequence[SamplerConfig],
        *,
        cuda_graphs: bool,
    ) -> None:
        def step(x: Tensor, modulation: Tensor, condition: Tensor) -> Tensor:
            return velocity(x, condition, modulation.expand(x.shape[0], -1))

        self._tables = {one: model.modulation(time_grid(one)[:-1]) for one in samplers}
        self._compute: dict[SamplerConfig, Callable[[Tensor, Tensor], Tensor]] = {}
        for sampler, table in self._tables.items():
            whole = partial(decode_modulated, step, modulation=table, sampler=sampler)
            self._compute[sampler] = CudaGraphs(whole) if cuda_graphs else whole

    @property
    def nbytes(self) -> int:
        """The bytes of the modulation that is kept for them."""
        return sum(table.nbytes for table in self._tables.values())

    def takes_whole(self, rows: int, sampler: SamplerConfig) -> bool:
        """Whether so many images by a sampler are one of these decodes."""
        return rows == ROWS and sampler in self._compute

    def __call__(self, start: Tensor, condition: Tensor, sampler: SamplerConfig) -> Tensor:
        """See :meth:`flowmo.model.halves.DecodesWhole.decode`."""
        return self._compute[sampler](start, condition)
