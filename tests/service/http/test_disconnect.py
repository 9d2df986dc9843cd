"""Work is cancelled when its client leaves, and only then."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.requests import Request
from starlette.types import Message

from flowmo.service.errors import ClientLeftError
from flowmo.service.http.disconnect import until_disconnect


def request_of(receive: Callable[[], Awaitable[Message]]) -> Request:
    return Request({"type": "http", "headers": []}, receive)


def test_the_result_is_handed_on_while_the_client_waits() -> None:
    async def waits() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    async def main() -> int:
        return await until_disconnect(request_of(waits), work())

    assert asyncio.run(main()) == 7


def test_work_is_cancelled_when_the_client_leaves() -> None:
    cancelled = []

    async def leaves() -> Message:
        return {"type": "http.disconnect"}

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def main() -> None:
        with pytest.raises(ClientLeftError):
            await until_disconnect(request_of(leaves), work())
        await asyncio.sleep(0)

    asyncio.run(main())
    assert cancelled == [True]
