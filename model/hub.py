"""``from_pretrained`` and ``save_pretrained`` by huggingface_hub's conventions, strictly.

The hub's own PyTorch mixin initialises weights before it overwrites them, loads one file, ignores
names that do not fit and passes unknown options on; docs/decisions/0005 says why this one differs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Self, cast

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor, nn

from flowmo.model.checkpoint import (
    DEFAULT_MAX_SHARD_SIZE,
    CheckpointInfo,
    dtype_name,
    inspect_checkpoint,
    load_weights,
    save_checkpoint,
)
from flowmo.model.checkpoint_files import CONFIG_FILE, INDEX_FILE
from flowmo.model.config import FlowMoConfig
from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.model.fingerprint import compute_fingerprint

_CARD = """---
{{ card_data }}
---

# FlowMo image tokenizer

Weights (safetensors) and `config.json` of a FlowMo model: images to compact tokens and back.
Written by flowmo-serve; load it with `flowmo.FlowMo.from_pretrained`, serve it with
`flowmo serve --checkpoint`.
"""

# Storage and version of every weight: what tells whether any changed since.
_Marks = tuple[tuple[int, int], ...]


def find_checkpoint(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """The folder of a checkpoint: a local one as it is, a hub repository downloaded.

    Args:
        name_or_path: a folder, or ``owner/name`` of a hub repository if no such folder exists.
        revision: of the repository: branch, tag or commit.
        cache_dir: where downloads are kept; the hub's own cache by default.
        force_download: download even what the cache has.
        local_files_only: do not use the network.
        token: of the hub; the stored one by default.

    Raises:
        CheckpointError: neither a folder nor a repository that can be had.
    """
    path, text = Path(name_or_path), str(name_or_path)
    if not text:  # pathlib takes it for the current folder
        raise CheckpointError(f"an empty name came; pass a folder with {CONFIG_FILE}")
    if path.is_dir():
        return path
    if path.exists() or isinstance(name_or_path, Path) or text.count("/") != 1 or text[0] in "./~":
        what = "is a file" if path.exists() else "does not exist"
        raise CheckpointError(
            f"{text} {what}; pass a folder with {CONFIG_FILE} and safetensors, or a hub "
            f"repository as owner/name (`flowmo convert` makes a folder of a published .pth file)"
        )
    try:
        folder = snapshot_download(
            text,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
            allow_patterns=[CONFIG_FILE, INDEX_FILE, "*.safetensors"],
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(
            f"no folder {text} exists here, and no repository of that name could be had from the "
            f"hub: {error}"
        ) from error
    return Path(folder)


class FlowMoHubMixin(
    nn.Module,
    ModelHubMixin,
    library_name="flowmo-serve",
    tags=["image-tokenizer"],
    model_card_template=_CARD,
):
    """Checkpoints and identity of a network that is built from a ``FlowMoConfig`` alone."""

    config: FlowMoConfig
    _known_fingerprint: tuple[str, _Marks] | None = None

    @classmethod
    def from_pretrained(  # type: ignore[override] # no **kwargs: a misspelt option is an error
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """Load a checkpoint, in evaluation mode. No weight is initialised on the way.

        Args:
            pretrained_model_name_or_path: a folder, or ``owner/name`` of a hub repository.
            dtype: of the weights; as stored by default.
            device: where to load to.
            revision: of the repository: branch, tag or commit.
            cache_dir: where downloads are kept; the hub's own cache by default.
            force_download: download even what the cache has.
            local_files_only: do not use the network.
            token: of the hub; the stored one by default.

        Raises:
            CheckpointError: there is none, or its files, names, shapes or versions are wrong; the
                message lists what is.
        """
        folder = find_checkpoint(
            pretrained_model_name_or_path,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        info = inspect_checkpoint(folder)
        return cls._of_checkpoint(info, load_weights(info, dtype=dtype, device=device))

    @classmethod
    def _of_checkpoint(cls, info: CheckpointInfo, state: dict[str, Tensor]) -> Self:
        build = cast("Callable[[FlowMoConfig], Self]", cls)
        with torch.device("meta"):
            model = build(info.config)
        model.load_state_dict(state, strict=True, assign=True)
        assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
        if info.fingerprint is not None and (marks := model._marks()) is not None:
            model._known_fingerprint = info.fingerprint, marks
        return model.eval()

    def save_pretrained(  # type: ignore[override] # as above
        self,
        save_directory: str | Path,
        *,
        dtype: torch.dtype | None = None,
        max_shard_size: int | str = DEFAULT_MAX_SHARD_SIZE,
        config: FlowMoConfig | None = None,
        model_card_kwargs: dict[str, object] | None = None,
    ) -> None:
        """Write a checkpoint folder: ``config.json``, safetensors, and a model card if none is.

        Args:
            save_directory: made if it does not exist; a checkpoint in it is replaced.
            dtype: torch.bfloat16 or torch.float32; the model's own by default.
            max_shard_size: largest safetensors file, in bytes or as ``"5GB"``.
            config: for the hub's ``push_to_hub``, which passes the model's own.
            model_card_kwargs: further values of the model card's template.

        Raises:
            CheckpointError: the dtype cannot be stored.
            ConfigError: another config than the model's.
        """
        if config is not None and config != self.config:
            raise ConfigError(
                f"a checkpoint is written with its model's own config ({self.config.name!r}), got "
                f"another; build FlowMo from that one instead"
            )
        own = next(self.parameters()).dtype if dtype is None else dtype
        dtype_name(own)  # refuse before anything is written
        save_checkpoint(
            self.state_dict(), self.config, save_directory, dtype=own, max_shard_size=max_shard_size
        )
        card = Path(save_directory, "README.md")
        if not card.exists():
            self.generate_model_card(**(model_card_kwargs or {})).save(card)

    def fingerprint(self) -> str:
        """What identifies network and weights: 32 hex digits (model.fingerprint).

        Equal for a float32 model and its bfloat16 copy. Remembered until a weight changes.

        Raises:
            CheckpointError: the weights are on the meta device.
        """
        marks = self._marks()
        if self._known_fingerprint is not None and self._known_fingerprint[1] == marks:
            return self._known_fingerprint[0]
        found = compute_fingerprint(self.config, self.state_dict())
        self._known_fingerprint = None if marks is None else (found, marks)
        return found

    def _marks(self) -> _Marks | None:
        """None for weights made in inference mode, whose changes nothing counts."""
        weights = list(self.parameters())
        if any(weight.is_inference() for weight in weights):
            return None
        return tuple((weight.data_ptr(), weight._version) for weight in weights)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Moves and casts replace storages, and a new one may have an old one's address.
        self._known_fingerprint = None
        nn.Module._apply(self, fn, recurse)
        return self
