"""The models of one server, by name, and their exchange while requests go on."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from flowmo.service.engine.engines import Engines
from flowmo.service.errors import UnknownModelError
from flowmo.service.garbage import let_go

logger = logging.getLogger(__name__)

_LOOK_EVERY = 0.05

# Engines of a model as its checkpoint is now; called in a thread.
Build = Callable[[], Engines]


class Served:
    """A model under its name; when it is loaded again, another one replaces it.

    Args:
        name: The name that clients use.
        engines: The model's encoder and decoder.

    Attributes:
        users: The number of requests that are about to use the model or do.
    """

    def __init__(self, name: str, engines: Engines) -> None:
        self.name, self.engines = name, engines
        self.users = 0


class Models:
    """All models of one server. Used from the event loop's thread only.

    Args:
        builds: A function for each name that loads the model; each is called once now. The first is
            the default model.

    Raises:
        FlowMoError: A model cannot be loaded.
    """

    def __init__(self, builds: Mapping[str, Build]) -> None:
        assert builds
        self._builds = dict(builds)
        self._served = {name: Served(name, build()) for name, build in builds.items()}
        self._retiring: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    @property
    def default(self) -> Served:
        """The model of requests that name none."""
        return next(iter(self._served.values()))

    @property
    def alive(self) -> bool:
        """Whether no model has ended, is stuck or only fails."""
        return self.complaint is None

    @property
    def complaint(self) -> str | None:
        """Why a model is not alive, with its name; None when all are."""
        found = (
            (s.name, complaint) for s in self if (complaint := s.engines.complaint) is not None
        )
        return next((f"{name}: {complaint}" for name, complaint in found), None)

    @property
    def ready(self) -> bool:
        """Whether all models are warmed up and working."""
        return all(served.engines.ready for served in self)

    def named(self, name: str) -> Served:
        """The model of a name.

        Raises:
            UnknownModelError: No model has this name.
        """
        try:
            return self._served[name]
        except KeyError:
            raise UnknownModelError(
                f"there is no model {name[:64]!r}; served here: {', '.join(self._served)}"
            ) from None

    def choose(self, name: str | None) -> Served:
        """The model of a name, or the default.

        Raises:
            UnknownModelError: No model has this name.
        """
        return self.default if name is None else self.named(name)

    def of_weights(self, fingerprint: str) -> Served | None:
        """The model whose weights have a fingerprint, if it is served."""
        found = (s for s in self if s.engines.info.fingerprint == fingerprint.lower())
        return next(found, None)

    @contextmanager
    def use(self, served: Served) -> Iterator[Served]:
        """Keep a model until the block ends, even if it is loaded again meanwhile."""
        served.users += 1
        try:
            yield served
        finally:
            served.users -= 1

    def start(self) -> None:
        """Start the engines of all models."""
        for served in self:
            served.engines.start()

    async def reload(self, seconds: float) -> None:
        """Load every model again, and let each replace its predecessor once it is warm.

        What was begun is finished by the predecessor. A model that cannot be loaded goes on as it
        was, and the log says why.

        Args:
            seconds: The longest wait for the predecessor's requests.
        """
        async with self._reloading:
            for name, build in self._builds.items():
                try:
                    await self._replace(name, build, seconds)
                except Exception:
                    logger.exception("model %s was not loaded again; it goes on as it was", name)

    async def _replace(self, name: str, build: Build, seconds: float) -> None:
        engines = await asyncio.to_thread(build)
        if engines.info == self._served[name].engines.info:
            logger.info("model %s is as it was: %s", name, engines.info.fingerprint)
            return
        engines.start()
        try:
            while not engines.ready:
                if not engines.alive:
                    raise RuntimeError("the warm-up failed")
                await asyncio.sleep(_LOOK_EVERY)
        except BaseException:
            await engines.close(0.0)
            raise
        old, self._served[name] = self._served[name], Served(name, engines)
        logger.info("model %s was loaded again: %s", name, engines.info.fingerprint)
        task = asyncio.create_task(_retire(old, seconds))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def close(self, seconds: float) -> None:
        """Finish the work inside, then end; what is not done after ``seconds`` is refused."""
        closing = [served.engines.close(seconds) for served in self]
        await asyncio.gather(*closing, *self._retiring)


async def _retire(served: Served, seconds: float) -> None:
    """Close a model's engines when the last request has left them."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while served.users:  # noqa: ASYNC110  (rare, and nothing waits for it)
                await asyncio.sleep(_LOOK_EVERY)
    await served.engines.close(seconds)
    del served
    let_go()  # engines and their thread know each other, and were set aside with their weights
