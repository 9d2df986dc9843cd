"""How well a prior knows held-out ids, by the share of them that is masked."""

import torch
import torch.nn.functional as F
from torch import Tensor

from flowmo.model.prior.checkpoint import Prior
from flowmo.training.data.tokens.dataset import TokenRows

METRICS = ("cross_entropy", "accuracy")
"""What ``validation.metric`` may be for a prior."""

MASK_RATES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)

_BATCH = 16


def validation_masks(rows: int, length: int, rate: float) -> Tensor:
    """The same masks at every call, bool [rows, length], each row with as many masked ids.

    Args:
        rows: The number of rows.
        length: N.
        rate: The share of masked ids; at least one is.
    """
    count = max(1, round(rate * length))
    generator = torch.Generator().manual_seed(round(1000 * rate))
    scores = torch.rand(rows, length, generator=generator)
    return scores.argsort(dim=1).argsort(dim=1) < count


class PriorValidator:
    """Measures a prior on the same ids with the same masks at every call.

    Args:
        rows: The held-out ids with their classes.
        device: Where to compute.
    """

    def __init__(self, rows: TokenRows, *, device: torch.device) -> None:
        self._rows, self._device = rows, device

    @torch.no_grad()
    def measure(self, model: Prior) -> dict[str, float]:
        """Cross-entropy in nats a masked id, without smoothing, and the share of right ones.

        Args:
            model: The prior; it is left in the mode that it came in.

        Returns:
            ``cross_entropy`` and ``accuracy``, means over :data:`MASK_RATES`, and both by rate, as
            in ``cross_entropy_at_50``.
        """
        training = model.training
        model.eval()
        values: dict[str, float] = {}
        for rate in MASK_RATES:
            entropy, accuracy = self._at(model, rate)
            values[f"cross_entropy_at_{round(100 * rate)}"] = entropy
            values[f"accuracy_at_{round(100 * rate)}"] = accuracy
        model.train(training)
        means = {
            metric: sum(values[f"{metric}_at_{round(100 * rate)}"] for rate in MASK_RATES)
            / len(MASK_RATES)
            for metric in METRICS
        }
        return means | values

    def _at(self, model: Prior, rate: float) -> tuple[float, float]:
        ids_BN, labels_B = self._rows
        masks = validation_masks(len(ids_BN), ids_BN.shape[1], rate)
        entropy = right = 0.0
        for first in range(0, len(ids_BN), _BATCH):
            part = slice(first, first + _BATCH)
            ids, masked = ids_BN[part].to(self._device), masks[part].to(self._device)
            labels = labels_B[part].to(self._device)
            logits = model(
                torch.where(masked, model.config.mask_id, ids),
                torch.where(labels < 0, model.config.null_class, labels),
            ).float()
            entropy += float(F.cross_entropy(logits[masked], ids[masked], reduction="sum"))
            right += float((logits.argmax(-1) == ids)[masked].sum())
        total = int(masks.sum())
        return entropy / total, right / total
