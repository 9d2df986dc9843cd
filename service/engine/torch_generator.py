"""The generator's runner over a PyTorch prior in this process."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmo.model.prior.checkpoint import Prior
from flowmo.service.engine.model_info import PriorInfo
from flowmo.service.engine.runner import Marker


class TorchGeneratorRunner:
    """Computes logits with a :class:`Prior`.

    Args:
        prior: The network, on its device; used from one thread at a time.
        buckets: The batch sizes that are asked for, ascending.
        compute: What computes its logits in the network's place, such as a compiled form of it.
    """

    def __init__(
        self,
        prior: Prior,
        *,
        buckets: Sequence[int],
        compute: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self._compute: Callable[[Tensor, Tensor], Tensor] = prior if compute is None else compute
        self._buckets = tuple(buckets)
        self._device = prior.bias.device
        self._cuda = self._device.type == "cuda"
        self._info = PriorInfo(fingerprint=prior.fingerprint(), config=prior.config)

    @property
    def info(self) -> PriorInfo:
        """The prior's weights, classes and default sampler; constant."""
        return self._info

    @property
    def buckets(self) -> tuple[int, ...]:
        """The batch sizes that are computed, ascending."""
        return self._buckets

    @property
    def device(self) -> torch.device:
        """Where states lie."""
        return self._device

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if self._cuda:
            torch.cuda.synchronize(self._device)

    def record(self) -> Marker | None:
        """See :meth:`GeneratorRunner.record`."""
        if not self._cuda:
            return None
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def logits(self, ids: Tensor, classes: Sequence[int]) -> Tensor:
        """See :meth:`GeneratorRunner.logits`."""
        numbers = torch.tensor(classes).to(self._device, non_blocking=True)
        return self._compute(ids, numbers).float()

    def to_host(self, ids: Tensor) -> NDArray[np.int64]:
        """See :meth:`GeneratorRunner.to_host`."""
        if self._cuda:
            host = torch.empty_like(ids, device="cpu", pin_memory=True)
            ids = host.copy_(ids, non_blocking=True)
        made: NDArray[np.int64] = ids.numpy()
        return made
