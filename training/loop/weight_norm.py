"""Matrices keep their initial Frobenius norm (SPEC "Training objective").

A matrix whose initial norm is 0 (the modulations of adaLN-zero) is exempt: rescaling it to its
initial norm would hold it at 0 for ever, and with it every block's gates.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from flowmo.training.loop.sharding import norms, rescale


class WeightNormFixer:
    """Remembers the norms of matrices and restores them.

    Args:
        matrices: The matrices by name; their current values give the norms.
    """

    def __init__(self, matrices: Mapping[str, nn.Parameter]) -> None:
        found = norms([weight.detach() for weight in matrices.values()]) if matrices else []
        self._norms = {
            name: norm for name, norm in zip(matrices, found, strict=True) if norm.item() > 0
        }
        self._weights = {name: matrices[name] for name in self._norms}

    @property
    def names(self) -> list[str]:
        """The matrices that are held."""
        return list(self._weights)

    @torch.no_grad()
    def apply(self) -> None:
        """Rescale each matrix that still trains to its norm, in place."""
        names = [name for name, weight in self._weights.items() if weight.requires_grad]
        if not names:
            return
        weights = [self._weights[name].detach() for name in names]
        kept = [self._norms[name] for name in names]
        rescale(weights, torch._foreach_div(kept, norms(weights)))

    def state(self) -> dict[str, Tensor]:
        """The norms by parameter name; a matrix that is not in it is exempt."""
        return dict(self._norms)

    def load_state(self, state: dict[str, Tensor], model: nn.Module) -> None:
        """Take over the norms of :meth:`state`, whatever the weights are now."""
        parameters = dict(model.named_parameters())
        self._weights = {name: parameters[name] for name in state}
        self._norms = {name: norm.to(parameters[name].device) for name, norm in state.items()}
