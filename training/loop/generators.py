"""The run's own random generators: one for each use, none shared with anybody else."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from flowmo.model.errors import CheckpointError


class Generators:
    """One generator a use, so that a change in one kind of draw leaves the others alone.

    Args:
        generators: The generators by the name of their use, all on one device.
    """

    def __init__(self, generators: dict[str, torch.Generator]) -> None:
        self._generators = generators

    @classmethod
    def seeded(cls, seed: int, device: torch.device, names: Sequence[str]) -> Self:
        """Generators whose seeds derive from one.

        Args:
            seed: The run's seed.
            device: The device that numbers are made on.
            names: The uses. Seeds go by their order, so that a use that is added at the end leaves
                the others alone.
        """
        # Distinct seeds through a fixed generator: neighbouring run seeds share no stream.
        root = torch.Generator().manual_seed(seed)
        seeds = [int(torch.randint(2**62, (), generator=root)) for _ in names]
        return cls(
            {
                name: torch.Generator(device).manual_seed(own)
                for name, own in zip(names, seeds, strict=True)
            }
        )

    def __getitem__(self, name: str) -> torch.Generator:
        return self._generators[name]

    @property
    def device(self) -> torch.device:
        """The device that the numbers are made on; the CPU where nothing is drawn."""
        for generator in self._generators.values():
            return generator.device
        return torch.device("cpu")

    def state(self) -> dict[str, Tensor]:
        """The states by name, uint8."""
        return {name: generator.get_state() for name, generator in self._generators.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state`.

        Raises:
            CheckpointError: The states are of another kind of device.
        """
        for name, generator in self._generators.items():
            if name not in state:  # a use that came after the checkpoint was written
                continue
            try:
                generator.set_state(state[name])
            except (RuntimeError, TypeError) as error:
                raise CheckpointError(
                    f"the checkpoint's {name} generator does not fit a {self.device.type} "
                    f"generator; resume on the kind of device that the run began on"
                ) from error
