"""The run's own random generators: one for each use, none shared with anybody else."""

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from flowmo.model.errors import CheckpointError


@dataclass(frozen=True, kw_only=True, slots=True)
class Generators:
    """One generator a use, so that a change in one kind of draw leaves the others alone.

    Attributes:
        time: flow times.
        noise: the flow's noise.
        dropout: condition dropout.
        posterior: the Gaussian posterior.
        chain: times and first state of stage 1B's chain.
    """

    time: torch.Generator
    noise: torch.Generator
    dropout: torch.Generator
    posterior: torch.Generator
    chain: torch.Generator

    @classmethod
    def seeded(cls, seed: int, device: torch.device) -> Self:
        """Generators on ``device`` whose seeds derive from one."""
        # Distinct seeds through a fixed generator: neighbouring run seeds share no stream.
        root = torch.Generator().manual_seed(seed)
        seeds = torch.randint(2**62, (len(fields(cls)),), generator=root).tolist()
        return cls(
            **{
                f.name: torch.Generator(device).manual_seed(s)
                for f, s in zip(fields(cls), seeds, strict=True)
            }
        )

    @property
    def device(self) -> torch.device:
        """Where the numbers are made."""
        return self.time.device

    def state(self) -> dict[str, Tensor]:
        """States by name, uint8."""
        return {f.name: getattr(self, f.name).get_state() for f in fields(self)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state`.

        Raises:
            CheckpointError: the states are of another kind of device.
        """
        for f in fields(self):
            if f.name not in state:  # a use that came after the checkpoint was written
                continue
            try:
                getattr(self, f.name).set_state(state[f.name])
            except (RuntimeError, TypeError) as error:
                raise CheckpointError(
                    f"the checkpoint's {f.name} generator does not fit a {self.device.type} "
                    f"generator; resume on the kind of device that the run began on"
                ) from error
