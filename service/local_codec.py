"""The codec over a PyTorch model in this process."""

from collections.abc import Sequence

import numpy as np
import torch

from flowmo.imaging.reading import Pixels
from flowmo.imaging.tensors import to_images, to_pixels
from flowmo.model.config import SamplerConfig
from flowmo.model.inference import InferenceModel
from flowmo.model.sampler import Observer, SamplerStep
from flowmo.model.tokens import Tokens
from flowmo.service.codec import CodecInfo


class LocalCodec:
    """A codec over an :class:`InferenceModel` in this process.

    Args:
        model: the network; used from one thread at a time.
    """

    def __init__(self, model: InferenceModel) -> None:
        self._model = model
        self._info = CodecInfo.of(model)

    @property
    def info(self) -> CodecInfo:
        """What it is; constant."""
        return self._info

    def tokenize(self, pixels: Pixels) -> list[Tokens]:
        """See :meth:`Codec.tokenize`."""
        size = self._info.image_size
        assert pixels.dtype == np.uint8 and pixels.shape[1:] == (size, size, 3), pixels.shape
        return self._model.tokenize(to_images(pixels, self._model.device))

    def detokenize(
        self,
        tokens: Sequence[Tokens],
        *,
        seeds: Sequence[int],
        sampler: SamplerConfig,
        observer: Observer | None = None,
    ) -> Pixels:
        """See :meth:`Codec.detokenize`."""
        if observer is not None and self._model.device.type == "cuda":
            observer = _after_the_device(observer)
        images = self._model.detokenize(tokens, seeds=seeds, sampler=sampler, observer=observer)
        return to_pixels(images)

    def warm_up(self) -> None:
        """One picture there and back, with the default sampler."""
        size = self._info.image_size
        tokens = self.tokenize(np.zeros((1, size, size, 3), np.uint8))
        self.detokenize(tokens, seeds=[0], sampler=self._info.sampler)


def _after_the_device(observer: Observer) -> Observer:
    """Let an observer see steps when they are done, not when they are launched."""

    def synchronized(step: SamplerStep) -> None:
        torch.cuda.synchronize()
        observer(step)

    return synchronized
