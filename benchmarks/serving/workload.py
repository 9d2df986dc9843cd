"""What is asked for: decodes of real photographs' tokens, with mixed options."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, count

import httpx
import numpy as np

from flowmo.model.config import SamplerConfig
from flowmo.model.container import MEDIA_TYPE
from flowmo.model.sampler import count_forwards
from flowmo.photographs import photograph_paths


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of request.

    Attributes:
        name: in the reports.
        share: The share of all requests, relative to the other kinds' shares.
        steps: The sampler's steps; the model's own number by default.
        guidance: the model's own by default.
        accept: media type of the answer.
    """

    name: str
    share: float = 1.0
    steps: int | None = None
    guidance: float | None = None
    accept: str = "image/png"

    def sampler(self, default: SamplerConfig) -> SamplerConfig:
        """What the server will do for it."""
        return replace(
            default,
            steps=self.steps or default.steps,
            guidance=default.guidance if self.guidance is None else self.guidance,
        )


# Most clients take the demo model's default of 4 steps; a tenth wants the paper's 25.
MIX = (
    Kind(name="4 steps", share=0.5, steps=4),
    Kind(name="4 steps, guided", share=0.1, steps=4, guidance=1.5, accept="image/jpeg"),
    Kind(name="8 steps", share=0.2, steps=8),
    Kind(name="8 steps, guided", share=0.1, steps=8, guidance=1.5, accept="image/jpeg"),
    Kind(name="25 steps", share=0.1, steps=25),
)
DEFAULTS = (Kind(name="defaults"),)
ONE_STEP = (Kind(name="1 step", steps=1),)
_DECK = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One request.

    Attributes:
        kind: The kind of its options.
        rows: evaluations of the network that it takes.
        params: The parameters of the query.
        headers: media types.
        body: a container.
    """

    kind: Kind
    rows: int
    params: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Requests of several kinds.

    Attributes:
        kinds: and their shares.
        containers: token sets that are asked for in turn.
        default: the served model's sampler.
    """

    kinds: Sequence[Kind]
    containers: Sequence[bytes]
    default: SamplerConfig

    @property
    def mean_rows(self) -> float:
        """Evaluations of the network that a request takes on average."""
        shares = sum(kind.share for kind in self.kinds)
        return sum(kind.share * self.rows(kind) for kind in self.kinds) / shares

    def rows(self, kind: Kind) -> int:
        """Evaluations of the network that a request of a kind takes."""
        return count_forwards(kind.sampler(self.default))

    def draw(self, number: int, *, seed: int) -> list[Ask]:
        """Requests in random order, each kind as often as its share says.

        The shares are exact up to rounding, so that two runs of the same load are the same work.

        Args:
            number: how many.
            seed: The seed of the order and of the sampler's seeds.
        """
        generator = np.random.default_rng(seed)
        bounds = list(accumulate(kind.share for kind in self.kinds))
        # Where evenly spaced points fall in the shares laid end to end.
        points = (np.arange(number) + 0.5) / max(1, number) * bounds[-1]
        chosen = np.minimum(np.searchsorted(bounds, points), len(self.kinds) - 1)
        return [
            self._ask(self.kinds[index], turn, int(generator.integers(2**31)))
            for turn, index in enumerate(generator.permutation(chosen))
        ]

    def endless(self, *, seed: int) -> Iterator[Ask]:
        """Requests without end, the shares kept in every hundred of them."""
        for deck in count():
            yield from self.draw(_DECK, seed=seed + deck)

    def each(self, times: int) -> list[Ask]:
        """Every kind so many times."""
        return [self._ask(kind, turn, turn) for kind in self.kinds for turn in range(times)]

    def _ask(self, kind: Kind, turn: int, seed: int) -> Ask:
        params = {"seed": str(seed)}
        if kind.steps is not None:
            params["steps"] = str(kind.steps)
        if kind.guidance is not None:
            params["guidance"] = str(kind.guidance)
        return Ask(
            kind=kind,
            rows=self.rows(kind),
            params=params,
            headers={"Content-Type": MEDIA_TYPE, "Accept": kind.accept},
            body=self.containers[turn % len(self.containers)],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What a server serves, and the sample photographs as it tokenizes them."""

    model: str
    fingerprint: str
    default: SamplerConfig
    containers: tuple[bytes, ...]

    def workload(self, kinds: Sequence[Kind]) -> Workload:
        """Requests of these kinds for this server."""
        return Workload(kinds=kinds, containers=self.containers, default=self.default)


def look_at(url: str) -> Served:
    """Ask a server what it serves, and have the sample photographs tokenized.

    Raises:
        httpx.HTTPError: it does not answer as it should.
    """
    headers = {"Content-Type": "application/octet-stream", "Accept": MEDIA_TYPE}
    containers = []
    with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as client:
        (model,) = client.get("/v1/models").raise_for_status().json()["models"]
        for path in photograph_paths():
            # One square each, so that a request is as many rows as the plan says.
            query = {"fit": "crop"}
            data = path.read_bytes()
            answer = client.post("/v1/tokenize", content=data, headers=headers, params=query)
            containers.append(answer.raise_for_status().content)
    return Served(
        model=model["name"],
        fingerprint=model["fingerprint"],
        default=SamplerConfig.from_dict(model["sampler"]),
        containers=tuple(containers),
    )
