"""Tokenizers whose code is a repository to clone: LlamaGen, Open-MAGVIT2, TiTok, DiTo.

Only their public interface is called; a clone's folder is where the command runs, or on PYTHONPATH.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowmo.training.evaluation.errors import EvaluationError
from flowmo.training.evaluation.tokenizers.common import (
    Reconstruction,
    TensorAdapter,
    arguments,
    bits_of_indices,
    imported,
    read_state,
)

_LLAMAGEN_CODEBOOK, _LLAMAGEN_WIDTH = 16_384, 8


def llamagen(text: str, device: str) -> TensorAdapter:
    """``llamagen:CHECKPOINT`` or ``llamagen:CHECKPOINT,VQ-16``, in a clone of LlamaGen.

    ``VQ-8``, which is meant without a second argument, is the paper's LlamaGen-32: 32 x 32 indices
    of 14 bits for 256 x 256 pixels.

    Raises:
        EvaluationError: The repository or the file cannot be had.
    """
    path, *rest = arguments(text, "llamagen:CHECKPOINT,MODEL", least=1)
    module = imported("tokenizer.tokenizer_image.vq_model", "FoundationVision/LlamaGen")
    build = module.VQ_models[rest[0] if rest else "VQ-8"]
    model = build(codebook_size=_LLAMAGEN_CODEBOOK, codebook_embed_dim=_LLAMAGEN_WIDTH)
    model.load_state_dict(read_state(path, "ema", "model", "state_dict"))
    model = model.to(device).eval()

    def reconstruct(images: Tensor, numbers: Sequence[int]) -> Reconstruction:
        del numbers
        latent, _, (_, _, indices) = model.encode(images)
        return Reconstruction(
            images=model.decode_code(indices, latent.shape),
            bits=bits_of_indices(indices, len(images), _LLAMAGEN_CODEBOOK),
        )

    return TensorAdapter(reconstruct, device=device)


def open_magvit2(text: str, device: str) -> TensorAdapter:
    """``open-magvit2:CONFIG,CHECKPOINT``, in a clone of Open-MAGVIT2 (SEED-Voken).

    CONFIG is one of the repository's YAML files. Each number of the latent is one bit, by its sign.
    Averaged weights are used where the config has them.

    Raises:
        EvaluationError: The repository or a file cannot be had.
    """
    config_path, path = arguments(text, "open-magvit2:CONFIG,CHECKPOINT", least=2)
    options = _read_yaml(config_path, "model", "init_args")
    module = imported("src.Open_MAGVIT2.models.lfqgan", "TencentARC/SEED-Voken")
    # Losses are for training, and theirs fetch networks.
    nothing = {"target": "torch.nn.Identity", "params": {}}
    model = module.VQModel(**options | {"lossconfig": nothing, "ckpt_path": None})
    model.load_state_dict(read_state(path, "state_dict"), strict=False)
    model = model.to(device).eval()

    def reconstruct(images: Tensor, numbers: Sequence[int]) -> Reconstruction:
        del numbers
        with model.ema_scope():
            quantized = model.encode(images)[0]
            return Reconstruction(images=model.decode(quantized), bits=quantized[0].numel())

    return TensorAdapter(reconstruct, device=device)


def titok(text: str, device: str) -> TensorAdapter:
    """``titok:REPO``, in a clone of bytedance/1d-tokenizer; REPO on the hub or a folder.

    Raises:
        EvaluationError: The repository cannot be had.
    """
    (repository,) = arguments(text, "titok:REPO", least=1)
    module = imported("modeling.titok", "bytedance/1d-tokenizer")
    model = module.TiTok.from_pretrained(repository).to(device).eval()
    codebook = int(model.config.model.vq_model.codebook_size)

    def reconstruct(images: Tensor, numbers: Sequence[int]) -> Reconstruction:
        del numbers
        # Its images lie in [0, 1].
        tokens = model.encode((images + 1) / 2)[1]["min_encoding_indices"]
        return Reconstruction(
            images=2 * model.decode_tokens(tokens) - 1,
            bits=bits_of_indices(tokens, len(images), codebook),
        )

    return TensorAdapter(reconstruct, device=device)


def dito(text: str, device: str) -> TensorAdapter:
    """``dito:CONFIG,CHECKPOINT``, in a clone of yinboc/dito.

    CONFIG is one of the repository's experiment files. Its latent is continuous, so there are no
    bits. Its decoder draws noise from torch's global generator, which a picture's number seeds, one
    picture at a time.

    Raises:
        EvaluationError: The repository or a file cannot be had.
    """
    config_path, path = arguments(text, "dito:CONFIG,CHECKPOINT", least=2)
    spec = _read_yaml(config_path, "model")
    module = imported("models", "yinboc/dito")
    model = module.make(spec)
    model.load_state_dict(read_state(path, "model.sd"))
    model = model.to(device).eval()
    devices = [torch.device(device)] if device.startswith("cuda") else []

    def reconstruct(images: Tensor, numbers: Sequence[int]) -> Reconstruction:
        came = []
        for image, number in zip(images, numbers, strict=True):
            latent = model.decode(model.encode(image[None]))
            nowhere = image.new_zeros(1, 2, *image.shape[1:])
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(number)
                came.append(model.render(latent, nowhere, nowhere))
        return Reconstruction(images=torch.cat(came), bits=None)

    return TensorAdapter(reconstruct, device=device)


def _read_yaml(path: str, *keys: str) -> dict[str, Any]:
    import yaml  # which their requirements bring, and the hub's library

    try:
        found: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        for key in keys:
            found = found[key]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path} cannot be read as a config with {'.'.join(keys)}: {error!r}"
        ) from error
    if not isinstance(found, dict):
        raise EvaluationError(f"{path}: {'.'.join(keys)} must be a mapping, got {found!r}")
    return found
