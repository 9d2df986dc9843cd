"""Give a trained decoder a head, and let it predict images instead of velocities.

    python -m flowmo.training.checkpointing.grow checkpoints/tiny --head 64,32,16 \
        --data 'data/demo/part-*.tar' --out runs/grown

The network stays what it was up to the features that its velocity was read from. The readout of the
image is found by least squares on crops of the data, since most of what a decoder knows of the
image can be read off linearly; the head begins as nothing. So a run that begins with such a
checkpoint (the recipe ``tiny-sharp``) need not learn either from random weights.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from flowmo.imaging.tensors import to_model_range
from flowmo.model.config import FlowMoConfig, SamplerConfig
from flowmo.model.errors import ConfigError, FlowMoError
from flowmo.model.flowmo import FlowMo
from flowmo.model.network import with_mask
from flowmo.model.patches import patchify
from flowmo.training.config import DataConfig, OptimizerConfig
from flowmo.training.data.batches import CropDataset
from flowmo.training.data.index import ImageIndex
from flowmo.training.tasks.flow import interpolate, shift_times
from flowmo.training.tasks.mup import initialize

_BATCH = 16
_RIDGE = 1e-4  # of the features' mean square
# Half of the crops are seen at t = 1, where only the tokens count, the others at shifted times.
_SHIFT = 10.0


@torch.no_grad()
def with_a_head(model: FlowMo, head: Sequence[int], *, seed: int = 0) -> FlowMo:
    """A model that computes what ``model`` does, with a head that adds nothing yet.

    Args:
        model: Without a head.
        head: The channels of :class:`flowmo.model.head.Head`; empty gives a copy.
        seed: Decides the head's initial weights.

    Raises:
        ConfigError: The model has a head already, or its patches are not divisible as often.
    """
    if model.config.head:
        raise ConfigError(f"the model has a head already, {list(model.config.head)}")
    config = replace(model.config, head=tuple(head))
    grown = FlowMo(config).to(torch.float32)
    initialize(grown, config, OptimizerConfig(), seed=seed)
    for name, weight in model.state_dict().items():
        # The decoder's readout has more rows now; its own ones are the first.
        grown.get_parameter(name)[: len(weight)].copy_(weight)
    return grown


@torch.no_grad()
def fit_images(model: FlowMo, crops: Iterable[Tensor], *, seed: int = 0) -> FlowMo:
    """Turn a decoder of velocities into one of images, by least squares; in place.

    Args:
        model: Its ``prediction`` is ``velocity``.
        crops: Batches of images, [B, 3, S, S] in [-1, 1]; some hundreds in all.
        seed: Decides times and noise.

    Returns:
        A model of the same weights whose config says ``image``, and decodes in one step.

    Raises:
        ConfigError: The model predicts images already.
    """
    if model.config.prediction != "velocity":
        raise ConfigError(f"the model predicts the {model.config.prediction} already")
    generator = torch.Generator().manual_seed(seed)
    readout = model.decoder.final_layer_img.linear
    width, dim, patch = readout.in_features, model.config.patch_dim, model.config.patch_size
    squares = torch.zeros(width + 1, width + 1, dtype=torch.float64)
    products = torch.zeros(width + 1, dim, dtype=torch.float64)
    seen: list[Tensor] = []
    hook = readout.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        for images in crops:
            t = shift_times(torch.rand(len(images), generator=generator), _SHIFT)
            t[: len(images) // 2] = 1.0
            noise = torch.randn(images.shape, generator=generator)
            x_t, _ = interpolate(images, noise, t)
            model.velocity(x_t, t, with_mask(model.eval().quantize(model.encode(images))))
            features = seen.pop().flatten(0, 1).double()
            features = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
            squares += features.T @ features
            products += features.T @ patchify(images, patch).flatten(0, 1).double()
    finally:
        hook.remove()
    ridge = _RIDGE * squares.diagonal().mean() * torch.eye(width + 1, dtype=torch.float64)
    solution = torch.linalg.solve(squares + ridge, products)
    readout.weight[:dim] = solution[:-1].T.to(readout.weight.dtype)
    readout.bias[:dim] = solution[-1].to(readout.bias.dtype)
    # One step is what it is good at as long as nothing was trained at small times.
    sampler = SamplerConfig(steps=1, guidance=1.0)
    fitted = FlowMo(replace(model.config, prediction="image", sampler=sampler))
    fitted.load_state_dict(model.state_dict())
    return fitted


def crops_of(
    paths: Sequence[str], config: FlowMoConfig, *, count: int, least_scale: float
) -> Iterable[Tensor]:
    """Random crops in batches, [B, 3, S, S] in [-1, 1].

    Args:
        paths: As ``data.paths`` of a run.
        config: The model's, for their size.
        count: The number of crops.
        least_scale: ``data.min_crop_scale`` of a run.

    Raises:
        DataError: There is no image, or a path does not exist.
    """
    index = ImageIndex(paths)
    options = DataConfig(min_crop_scale=least_scale)
    dataset = CropDataset(index, size=config.image_size, config=options, seed=0)
    for first in range(0, count, _BATCH):
        samples = dataset.__getitems__(range(first, min(first + _BATCH, count)))
        yield to_model_range(torch.stack([sample.image for sample in samples]))
    index.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and grow; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flowmo.training.checkpointing.grow")
    parser.add_argument("checkpoint", help="folder or hub repository")
    parser.add_argument("--head", default="64,32,16", help="channels, the coarsest scale first")
    parser.add_argument("--data", action="append", required=True, help="images; repeatable")
    parser.add_argument("--crops", type=int, default=512, help="to fit the readout on")
    parser.add_argument("--least-scale", type=float, default=0.25, help="data.min_crop_scale")
    parser.add_argument("--out", type=Path, required=True, help="folder of the grown checkpoint")
    options = parser.parse_args(arguments)
    try:
        model = FlowMo.from_pretrained(options.checkpoint)
        grown = with_a_head(model, [int(channels) for channels in options.head.split(",")])
        crops = crops_of(
            options.data, grown.config, count=options.crops, least_scale=options.least_scale
        )
        fit_images(grown, crops).save_pretrained(options.out, dtype=torch.float32)
    except FlowMoError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
