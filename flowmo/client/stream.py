"""From Server-Sent Events to typed ones."""

from collections.abc import Callable, Iterator

import httpx

from flowmo.client import answers
from flowmo.client.events import MEDIA_TYPE, EventParser, ServerEvent
from flowmo.client.values import DecodedImage, DecodeEvent, Preview, Progress


class EventReader:
    """Reads the events of one answer.

    Args:
        answer: The answer, whose head has come.
        seconds: Tells the seconds since the request.

    Attributes:
        is_done: Whether the image has come.

    Raises:
        ValueError: The answer is no stream of events.
    """

    def __init__(self, answer: httpx.Response, seconds: Callable[[], float]) -> None:
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        if media_type != MEDIA_TYPE:
            raise ValueError(f"Content-Type is {media_type!r}, not {MEDIA_TYPE}")
        self._request_id = answer.headers.get("X-Request-ID", "")
        self._seconds = seconds
        self._parser = EventParser()
        self.is_done = False

    def read(self, piece: bytes) -> Iterator[DecodeEvent]:
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

    def _news(self, event: ServerEvent) -> DecodeEvent | None:
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

    def _image(self, event: ServerEvent) -> DecodedImage:
        data = answers.members(event.json())
        headers = answers.members(data["headers"])
        image = answers.decoded_from_headers(
            answers.from_base64(data["image"]),
            str(data["media_type"]),
            httpx.Headers({name: str(value) for name, value in headers.items()}),
            seconds=self._seconds(),
            request_id=self._request_id,
        )
        self.is_done = True
        return image
