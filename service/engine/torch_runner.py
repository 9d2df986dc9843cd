"""The runner over a PyTorch model in this process."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from flowmo.imaging.reading import Pixels
from flowmo.imaging.tensors import to_images, to_levels
from flowmo.model.inference import InferenceModel
from flowmo.model.network import with_mask
from flowmo.model.quantizer import ids_to_signs
from flowmo.model.sampler import noise
from flowmo.model.tokens import Tokens
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.engine.runner import Marker
from flowmo.service.engine.sizes import TORCH


class TorchRunner:
    """Encodes and decodes with an :class:`InferenceModel`.

    Args:
        model: The network; used from one thread at a time.
        buckets: The batch sizes that are asked for, ascending.
        runner: The name of what computes the model, for people.
        is_fallback: Whether that is not what was asked for.
    """

    def __init__(
        self,
        model: InferenceModel,
        *,
        buckets: Sequence[int],
        runner: str = TORCH,
        is_fallback: bool = False,
    ) -> None:
        self._model = model
        self._cuda = model.device.type == "cuda"
        self._buckets = tuple(buckets)
        self._info = ModelInfo.of(model, runner, is_fallback=is_fallback)

    @property
    def info(self) -> ModelInfo:
        """The model's shapes, weights and device; constant."""
        return self._info

    @property
    def buckets(self) -> tuple[int, ...]:
        """The batch sizes that are computed, ascending."""
        return self._buckets

    def memory_by_owner(self) -> Mapping[str, int]:
        """See :class:`TellsMemory`."""
        return self._model.memory_by_owner()

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        # Not the whole device, which another model of the process may be capturing a graph on.
        if (marker := self.record()) is not None:
            marker.synchronize()

    def encode(self, pixels: Pixels) -> list[Tokens]:
        """See :meth:`EncoderRunner.encode`."""
        return self._model.tokens_of(self._model.encode(to_images(pixels, self._model.device)))

    def check(self, tokens: Tokens) -> None:
        """See :meth:`DecoderRunner.check`."""
        self._model.check_tokens([tokens])

    @property
    def device(self) -> torch.device:
        """See :class:`DecoderRunner`."""
        return self._model.device

    def begin(self, tokens: Tokens, seed: int) -> tuple[Tensor, Tensor]:
        """See :meth:`DecoderRunner.begin`."""
        size = self._model.config.image_size
        start = noise([seed], (3, size, size))[0]
        return start.pin_memory() if self._cuda else start, self.condition(tokens)[0]

    def condition(self, tokens: Tokens) -> Tensor:
        """See :meth:`DecoderRunner.condition`."""
        ids = tokens.ids.reshape(tokens.tile_count, tokens.code_length, tokens.ids_per_token)
        signs = ids_to_signs(torch.tensor(ids), self._model.config.group_bits)
        condition = with_mask(signs.to(self._model.dtype))
        return condition.pin_memory() if self._cuda else condition

    def record(self) -> Marker | None:
        """See :meth:`DecoderRunner.record`."""
        if not self._cuda:
            return None
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(self._model.device))
        return event

    def velocity(self, x: Tensor, times: Sequence[float], condition: Tensor) -> Tensor:
        """See :meth:`DecoderRunner.velocity`."""
        return self._model.velocity_modulated(x, self._model.modulation(times), condition)

    def pixels(self, x: Tensor) -> Pixels:
        """See :meth:`DecoderRunner.pixels`."""
        levels = to_levels(x).permute(0, 2, 3, 1).contiguous()
        if self._cuda:
            host = torch.empty_like(levels, device="cpu", pin_memory=True)
            levels = host.copy_(levels, non_blocking=True)
        pixels: Pixels = levels.numpy()
        return pixels
