"""How much memory a model holds, and what of it."""

import time
from collections.abc import Callable, Mapping

from flowmo.service.engine.runner import TellsMemory
from flowmo.service.telemetry.instruments import Instruments

# Adding up the weights of a large model takes a millisecond, and they hardly change.
_COUNT_EVERY = 15.0


class ModelMemory:
    """The gauge of models' memory, a series an owner.

    Args:
        instruments: Make the series.
        clock: Gives the time, in seconds.
    """

    def __init__(
        self, instruments: Instruments, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._gauge = instruments.gauge(
            "flowmo_model_memory_bytes",
            "Memory that a model holds: weights and tables, by what holds them.",
            ["model", "owner"],
        )
        self._clock = clock
        self._counted: dict[str, tuple[float, object, Mapping[str, int]]] = {}

    def sample(self, model: str, holder: object) -> None:
        """Set the series of a model.

        Args:
            model: The value of the label ``model``.
            holder: Its engines or its runner; of those that are no :class:`TellsMemory` nothing is
                known, and there is no series.
        """
        if not isinstance(holder, TellsMemory):
            return
        now = self._clock()
        at, before, owners = self._counted.get(model, (0.0, None, {}))
        if before is not holder or now - at >= _COUNT_EVERY:
            found = holder.memory_by_owner()
            for gone in owners.keys() - found.keys():
                self._gauge.forget(model, gone)
            owners = found
            self._counted[model] = (now, holder, owners)
        for owner, size in owners.items():  # each time: Ray forgets what is not
            self._gauge.set(model, owner, to=size)
