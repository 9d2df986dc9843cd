"""How many connections a turn of the event loop reads bodies from.

A turn reads whatever has come on all connections, up to 256 KB of each, before anything else goes
on: with 64 uploads at once that is 8 to 20 ms of copying, and an answer takes several turns.
uvicorn has each connection wait, after a piece, until the application asks for more; here what is
asked for is given to a few in each turn, in the order in which they asked.
"""

import asyncio
from collections import deque

from uvicorn.protocols.http.flow_control import FlowControl

# Some 2 to 4 ms of a processor.
READS_A_TURN = 8


class ReadingTurns:
    """The connections of one server that wait to be read from. Used from its event loop's thread.

    Args:
        reads: How many may go on in one turn of the loop.
    """

    def __init__(self, reads: int = READS_A_TURN) -> None:
        self._reads = self._left = reads
        self._waiting: deque[asyncio.Transport] = deque()
        self._is_counting = False

    def read_on(self, transport: asyncio.Transport) -> None:
        """Read from a connection again, in this turn or in one that follows."""
        if not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._next_turn)
        if self._left:
            self._left -= 1
            transport.resume_reading()
        else:
            self._waiting.append(transport)

    def _next_turn(self) -> None:
        self._left, self._is_counting = self._reads, False
        while self._left and self._waiting:
            transport = self._waiting.popleft()
            if not transport.is_closing():
                self.read_on(transport)


class FlowInTurns(FlowControl):
    """uvicorn's flow control of one connection, which reads on when it is its turn.

    Args:
        transport: The connection.
        turns: Those of its server.
    """

    def __init__(self, transport: asyncio.Transport, turns: ReadingTurns) -> None:
        super().__init__(transport)
        self._turns = turns

    def resume_reading(self) -> None:
        """Ask for the connection's next turn."""
        if self.read_paused:
            # Nothing comes until the turn does, so nothing pauses it again meanwhile.
            self.read_paused = False
            self._turns.read_on(self._transport)
