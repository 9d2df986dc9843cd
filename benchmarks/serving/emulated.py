"""A device that takes its time and computes nothing: what a cluster of GPUs does, on two cores.

Scaling is a matter of time alone, so a runner that sleeps as long as a batch would take shows it.
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from flowmo.service.engine.config import RunnerConfig
from flowmo.service.engine.torch_runner import TorchRunner
from flowmo.service.loader import buckets_of, load_model

# A decoder that computes at its full rate from one row on, as the full model does on a GPU.
ROW_SECONDS = 0.005


class EmulatedRunner(TorchRunner):
    """Encodes in earnest; a row of the decoder takes :data:`ROW_SECONDS`, and is nothing."""

    def velocity(self, x: Tensor, times: Sequence[float], condition: Tensor) -> Tensor:
        """See :meth:`DecoderRunner.velocity`."""
        assert len(times) == len(condition)
        time.sleep(ROW_SECONDS * len(x))
        return torch.zeros_like(x)


def make(config: RunnerConfig) -> EmulatedRunner:
    """The runner of ``--runner benchmarks.serving.emulated:make``; see :func:`load_runner`."""
    model = load_model(config)
    return EmulatedRunner(model, buckets=buckets_of(model.device.type, config.max_batch))
