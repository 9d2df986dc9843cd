"""Server-Sent Events from the bytes of an answer, by the rules of the HTML standard, 9.2.6.

Lines end with LF, CR or both; a blank line ends an event; other fields than ``event`` and ``data``
serve reconnection, which a decode does not have.
"""

import codecs
import json
import re
from dataclasses import dataclass

MEDIA_TYPE = "text/event-stream"
# A CR at the end of what has come may be the first half of a line's end.
_LINE_END = re.compile(r"\r\n|\n|\r(?!\Z)")


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event.

    Attributes:
        name: The kind of the event; ``message`` where none was named.
        data: The lines of its data.
    """

    name: str
    data: str

    def json(self) -> object:
        """The data as JSON.

        Raises:
            ValueError: The data is no JSON.
        """
        return json.loads(self.data)


class EventParser:
    """Reads events from pieces of a body that may be cut anywhere."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._rest = ""
        self._name = ""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that are complete with this piece.

        Args:
            piece: The next bytes of the body.
        """
        *lines, self._rest = _LINE_END.split(self._rest + self._decoder.decode(piece))
        return [event for line in lines if (event := self._take(line)) is not None]

    def _take(self, line: str) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")  # a comment is a field without a name
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        return None

    def _dispatch(self) -> ServerEvent | None:
        event = ServerEvent(self._name or "message", "\n".join(self._data)) if self._data else None
        self._name, self._data = "", []
        return event
