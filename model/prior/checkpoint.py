"""A prior behind one name: the network, its checkpoint folder and its samples.

The folder is that of a tokenizer (:mod:`flowmo.model.checkpoint`), with ``"model_type": "prior"``
and a config that names the tokenizer whose ids it knows.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from flowmo.model.checkpoint import (
    CheckpointInfo,
    check_tensors,
    dtype_name,
    inspect_folder,
    load_weights,
    write_folder,
)
from flowmo.model.checkpoint_files import FORMAT_VERSION
from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.model.fingerprint import digest_of, without_defaults
from flowmo.model.prior.config import PriorConfig
from flowmo.model.prior.network import PriorNetwork
from flowmo.model.prior.sampler import Observer, guided, masked_start, sample_ids
from flowmo.model.prior.sampler_config import PriorSamplerConfig

PRIOR_TYPE = "prior"
# What does not change which ids a prior gives to which logits.
_NOT_IDENTITY = ("name", "sampler", "class_names")


def expected_prior_shapes(config: PriorConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a prior; nothing is allocated."""
    with torch.device("meta"):
        state = PriorNetwork(config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def inspect_prior(folder: str | Path) -> CheckpointInfo[PriorConfig]:
    """Read what a prior's checkpoint holds, without its weights, and check that it is complete.

    Raises:
        CheckpointError: It is no folder of a prior; a file is missing or malformed; tensors are
            missing, surplus, of another shape or dtype.
    """
    return inspect_folder(Path(folder), PRIOR_TYPE, PriorConfig.from_dict, _check_shapes)


def _check_shapes(config: PriorConfig, came: Mapping[str, tuple[int, ...]], source: Path) -> None:
    check_tensors(expected_prior_shapes(config), came, source, label=config.name)


class Prior(PriorNetwork):
    """A prior: :class:`flowmo.model.prior.network.PriorNetwork` that is saved, loaded and sampled.

    Args:
        config: The sizes.
    """

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Load a checkpoint folder, in evaluation mode.

        Args:
            pretrained_model_name_or_path: The folder.
            dtype: The dtype of the weights; as stored by default.
            device: The device to load to.

        Raises:
            CheckpointError: The folder is refused by :func:`inspect_prior`.
        """
        info = inspect_prior(pretrained_model_name_or_path)
        with torch.device("meta"):
            model = cls(info.config)
        model.load_state_dict(load_weights(info, dtype=dtype, device=device), assign=True)
        return model.eval()

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.bfloat16) -> str:
        """Write a checkpoint folder; a checkpoint that is already there is replaced.

        Args:
            folder: The folder, made if it does not exist.
            dtype: torch.bfloat16 or torch.float32.

        Returns:
            The prior's fingerprint.

        Raises:
            CheckpointError: The dtype cannot be stored, or the prior has met no tokenizer, so that
                nobody could say what its ids mean.
        """
        if self.config.tokenizer is None:
            raise CheckpointError(
                f"the prior {self.config.name!r} names no tokenizer, so its ids mean nothing; set "
                f"PriorConfig.tokenizer to the tokenizer's fingerprint"
            )
        fingerprint = self.fingerprint()
        record = {
            "format_version": FORMAT_VERSION,
            "model_type": PRIOR_TYPE,
            "fingerprint": fingerprint,
            "dtype": dtype_name(dtype),
            "config": self.config.to_dict(),
        }
        write_folder(Path(folder), self.state_dict(), record, dtype=dtype)
        return fingerprint

    def fingerprint(self) -> str:
        """What identifies the weights, whatever the prior is called or sampled with: 32 hex digits.

        Raises:
            CheckpointError: The weights are on the meta device.
        """
        # As for a tokenizer: a field that comes later keeps every fingerprint by its default.
        values = without_defaults(PriorConfig, self.config.to_dict())
        identity = {name: value for name, value in values.items() if name not in _NOT_IDENTITY}
        return digest_of({"model_type": PRIOR_TYPE, **identity}, self.state_dict())

    @torch.no_grad()
    def generate(
        self,
        classes: Sequence[int],
        *,
        seeds: Sequence[int],
        sampler: PriorSamplerConfig | None = None,
        known: Tensor | None = None,
        keep: Tensor | None = None,
        observer: Observer | None = None,
    ) -> Tensor:
        """Draw the ids of images.

        Args:
            classes: The number of each image's class; ``config.null_class`` is none.
            seeds: The seed of each image, 0 <= seed < 2^63. What it gives does not depend on the
                other images but for the rounding of larger batches.
            sampler: How to draw; the prior's own by default.
            known: Ids [B, N] or [N] of which some are kept.
            keep: Bool of the same shape: which.
            observer: A function that is called after each step.

        Returns:
            int64 [B, N] on the prior's device.

        Raises:
            ConfigError: There is no such class or seed.
            TokenError: Classes, seeds, ids and mask do not fit together.
        """
        config, device = self.config, self.bias.device
        chosen = config.sampler if sampler is None else sampler
        for one in classes:
            if not 0 <= one <= config.null_class:
                raise ConfigError(f"classes are 0 ... {config.null_class} (none), got {one}")
        for seed in seeds:
            if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
                raise ConfigError(f"a seed is a whole number from 0 to 2^63 - 1, got {seed!r}")
        start = masked_start(len(classes), config.length, config.mask_id, known=known, keep=keep)
        classes_B = torch.tensor(list(classes), dtype=torch.int64, device=device)
        # Of a row without a class both halves of a guided step would be the same.
        unconditional = all(one == config.null_class for one in classes)
        guidance = 1.0 if unconditional else chosen.guidance
        return sample_ids(
            guided(self, classes_B, config.null_class, guidance),
            start.to(device),
            mask_id=config.mask_id,
            config=chosen,
            generators=[torch.Generator().manual_seed(seed) for seed in seeds],
            observer=observer,
        )
