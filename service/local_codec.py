"""The codec over a PyTorch model in this process."""

from collections.abc import Sequence

import numpy as np
import torch

from model.config import SamplerConfig
from model.inference import InferenceModel
from model.sampler import Observer, Preview
from model.tokens import Tokens
from service.codec import CodecInfo
from service.images import Pixels


class LocalCodec:
    """A codec over an :class:`InferenceModel` in this process.

    Args:
        model: the network; used from one thread at a time.
    """

    def __init__(self, model: InferenceModel) -> None:
        self._model = model
        self._info = CodecInfo(
            fingerprint=model.fingerprint,
            config=model.config,
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
        )

    @property
    def info(self) -> CodecInfo:
        """What it is; constant."""
        return self._info

    def tokenize(self, pixels: Pixels) -> list[Tokens]:
        """See :meth:`Codec.tokenize`."""
        size = self._info.image_size
        assert pixels.dtype == np.uint8 and pixels.shape[1:] == (size, size, 3), pixels.shape
        # A copy, because Pillow's buffers are read-only and torch has no such tensors.
        images = torch.from_numpy(pixels.copy()).to(self._model.device)
        return self._model.tokenize(images.permute(0, 3, 1, 2).float() / 127.5 - 1.0)

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
        levels = ((images + 1.0) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
        result: Pixels = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return result

    def warm_up(self) -> None:
        """One picture there and back, with the default sampler."""
        size = self._info.image_size
        tokens = self.tokenize(np.zeros((1, size, size, 3), np.uint8))
        self.detokenize(tokens, seeds=[0], sampler=self._info.sampler)


def _after_the_device(observer: Observer) -> Observer:
    """Let an observer see steps when they are done, not when they are launched."""

    def synchronized(preview: Preview) -> None:
        torch.cuda.synchronize()
        observer(preview)

    return synchronized
