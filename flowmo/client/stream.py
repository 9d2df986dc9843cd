"""From Server-Sent Events to typed ones."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import httpx

from flowmo.client import answers
from flowmo.client.events import MEDIA_TYPE, EventParser, ServerEvent
from flowmo.client.values import Preview, Progress

F = TypeVar("F")

# The data of the last event, the headers in it, the seconds since the request, and its id.
Final = Callable[[Mapping[str, Any], httpx.Headers, float, str], F]


class EventReader(Generic[F]):
    """Reads the events of one answer.

    Args:
        answer: The answer, whose head has come.
        seconds: Tells the seconds since the request.
        final: Makes the value of the last event.

    Attributes:
        is_done: Whether the image has come.

    Raises:
        ValueError: The answer is no stream of events.
    """

    def __init__(
        self, answer: httpx.Response, seconds: Callable[[], float], final: Final[F]
    ) -> None:
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        if media_type != MEDIA_TYPE:
            raise ValueError(f"Content-Type is {media_type!r}, not {MEDIA_TYPE}")
        self._request_id = answer.headers.get("X-Request-ID", "")
        self._seconds, self._final = seconds, final
        self._parser = EventParser()
        self.is_done = False

    def read(self, piece: bytes) -> Iterator[Progress | Preview | F]:
        """What the events say that are complete with a piece; unknown kinds are passed over.

        Args:
            piece: The next bytes of the answer.

        Raises:
            ServerRefusedError: The decode failed on its way.
            KeyError: An event is not what its name says.
            TypeError: Likewise.
            ValueError: Likewise.
        """
        for event in self._parser.feed(piece):
            news = self._news(event)
            if news is not None:
                yield news

    def _news(self, event: ServerEvent) -> Progress | Preview | F | None:
        match event.name:
            case "progress":
                data = answers.members(event.json())
                return Progress(step=int(data["step"]), steps=int(data["steps"]))
            case "preview":
                data = answers.members(event.json())
                return Preview(
                    step=int(data["step"]),
                    steps=int(data["steps"]),
                    data=answers.from_base64(data["image"]),
                    media_type=str(data["media_type"]),
                )
            case "image":
                return self._image(event)
            case "error":
                problem = answers.members(event.json())
                raise answers.refusal_of(problem, request_id=self._request_id)
            case _:
                return None

    def _image(self, event: ServerEvent) -> F:
        data = answers.members(event.json())
        headers = answers.members(data["headers"])
        image = self._final(
            data,
            httpx.Headers({name: str(value) for name, value in headers.items()}),
            self._seconds(),
            self._request_id,
        )
        self.is_done = True
        return image
