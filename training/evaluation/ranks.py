"""Which share of the work is this process's: torchrun's environment, or all of it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from flowmo.training.evaluation.errors import EvaluationError


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """One process of several that share a folder and nothing else.

    Attributes:
        rank: The rank of this process, from 0.
        world: how many there are.
        local: The local rank of this process on its machine, which picks the GPU.

    Raises:
        EvaluationError: a rank outside of 0 ... world - 1.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world or self.local < 0:
            raise EvaluationError(
                f"RANK counts from 0 to WORLD_SIZE - 1, got RANK={self.rank}, "
                f"WORLD_SIZE={self.world}, LOCAL_RANK={self.local}"
            )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read RANK, WORLD_SIZE and LOCAL_RANK; a single process without them.

        Raises:
            EvaluationError: one is no number, or out of range.
        """
        try:
            return cls(
                rank=int(environ.get("RANK", "0")),
                world=int(environ.get("WORLD_SIZE", "1")),
                local=int(environ.get("LOCAL_RANK", "0")),
            )
        except ValueError as error:
            if isinstance(error, EvaluationError):
                raise
            raise EvaluationError(
                f"RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers: {error}"
            ) from None

    def device(self, name: str) -> str:
        """The device of this process: ``cuda`` becomes that of its local rank."""
        return f"cuda:{self.local}" if name == "cuda" else name

    def share(self, count: int) -> range:
        """Numbers below ``count`` that are this process's, round robin."""
        return range(self.rank, count, self.world)
