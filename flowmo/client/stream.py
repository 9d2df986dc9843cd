"""From Server-Sent Events to typed ones."""

from collections.abc import Callable

import httpx
from httpx_sse import ServerSentEvent

from flowmo.client import answers
from flowmo.client.values import DecodedImage, DecodeEvent, Preview, Progress


class EventReader:
    """Reads the events of one answer.

    Args:
        answer: its head has come.
        seconds: since the request.

    Attributes:
        is_done: the image has come.
    """

    def __init__(self, answer: httpx.Response, seconds: Callable[[], float]) -> None:
        self._request_id = answer.headers.get("X-Request-ID", "")
        self._seconds = seconds
        self.is_done = False

    def read(self, event: ServerSentEvent) -> DecodeEvent | None:
        """What an event says; None for kinds that this client does not know.

        Raises:
            ServerRefusedError: the decode failed on its way.
            KeyError: an event is not what its name says.
            TypeError: as KeyError.
            ValueError: as KeyError.
        """
        match event.event:
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

    def _image(self, event: ServerSentEvent) -> DecodedImage:
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
