"""Bodies are read a few connections at a time, in their order, and arrive whole."""

import asyncio
import hashlib
import socket
from typing import Any

import uvicorn

from flowmo.service.http.connections import ConnectionLimits, limited_protocol
from flowmo.service.http.reading_turns import READS_A_TURN, FlowInTurns, ReadingTurns

LIMITS = ConnectionLimits(header_bytes=8192, header_seconds=30.0, send_seconds=30.0)
UPLOADS, SIZE = 3 * READS_A_TURN, 1 << 20


class Transport(asyncio.Transport):
    """Notes when it may be read from again."""

    def __init__(self, name: int, resumed: list[int]) -> None:
        super().__init__()
        self._name, self._resumed = name, resumed
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        self._resumed.append(self._name)


def test_a_turn_of_the_loop_reads_from_a_few_in_the_order_in_which_they_asked() -> None:
    resumed: list[int] = []

    async def main() -> None:
        turns = ReadingTurns(reads=3)
        transports = [Transport(number, resumed) for number in range(9)]
        flows = [FlowInTurns(transport, turns) for transport in transports]
        for flow in flows:
            flow.pause_reading()
            flow.resume_reading()
            flow.resume_reading()  # asks once
        transports[4].closing = True
        assert resumed == [0, 1, 2]
        await asyncio.sleep(0)
        assert resumed == [0, 1, 2, 3, 5, 6]
        flows[0].pause_reading()
        flows[0].resume_reading()  # behind those who have waited
        await asyncio.sleep(0)
        assert resumed[6:] == [7, 8, 0]
        await asyncio.sleep(0)
        flows[1].pause_reading()
        flows[1].resume_reading()  # nobody waits: at once
        assert resumed[9:] == [1]

    asyncio.run(main())


def test_uploads_at_once_arrive_whole_and_none_is_forgotten() -> None:
    async def digest(scope: Any, receive: Any, send: Any) -> None:
        found, more = hashlib.sha256(), True
        while more:
            message = await receive()
            found.update(message["body"])
            more = message.get("more_body", False)
        answer = found.hexdigest().encode()
        length = (b"content-length", str(len(answer)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": answer})

    bodies = [bytes([number]) * SIZE for number in range(UPLOADS)]

    async def upload(port: int, body: bytes) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: {SIZE}\r\n\r\n"
        writer.write(head.encode() + body)
        await reader.readuntil(b"\r\n\r\n")
        answer = await reader.readexactly(64)
        writer.close()
        return answer.decode()

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            config = uvicorn.Config(
                digest, http=limited_protocol(LIMITS), lifespan="off", log_config=None
            )
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            port = listener.getsockname()[1]
            answers = await asyncio.gather(*(upload(port, body) for body in bodies))
            assert answers == [hashlib.sha256(body).hexdigest() for body in bodies]
            server.should_exit = True
            await serving

    asyncio.run(main())
