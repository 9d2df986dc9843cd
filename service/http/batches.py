"""Several pictures in one request: each item has its own outcome, and none costs another anything.

    {"items": [{"image": "…"}, {"image": "…", "fit": "pad"}], "model": "lo"}

An item is what the body of the single route would be; the batch's own options hold for items that
say nothing. As a form, each file is an item and the other fields are options. Token sets may come
in the forms of :mod:`flowmo.service.http.token_files`, too.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from flowmo.service.engine.calls import Call
from flowmo.service.errors import (
    FieldProblem,
    InvalidFieldsError,
    MalformedBodyError,
    UnsupportedBodyError,
)
from flowmo.service.http.bodies import (
    FORM,
    JSON,
    media_type_of,
    parse_aside,
    read_body,
    read_form,
    shown,
)
from flowmo.service.http.item_feed import ItemFeed
from flowmo.service.http.json_bodies import MAX_OPTION_VALUES, check_structure, field_problems

_COUNTS = frozenset({"succeeded", "failed"})
I = TypeVar("I", bound=BaseModel)  # noqa: E741  (an item)
R = TypeVar("R")
# Makes the items of a body: fields, or why there are none.
Split = Callable[[bytes], Sequence[object]]


@dataclass(frozen=True, slots=True)
class Batch(Generic[I]):
    """The items of a batch request, before they are validated.

    Attributes:
        kind: The type that each item is validated against.
        defaults: The batch's own options, which hold for items that say nothing.
        items: The fields of each item, or why there are none.
    """

    kind: type[I]
    defaults: Mapping[str, Any]
    items: Sequence[object]

    def item(self, index: int) -> I:
        """Validate one item.

        Args:
            index: The item's index, 0 for the first.

        Raises:
            InvalidFieldsError: The item is no object, or has fields that cannot be used.
            Exception: Whatever is the matter with an item that was found to be unusable.
        """
        fields = self.items[index]
        if isinstance(fields, Exception):
            raise fields
        where = f"items.{index}"
        if not isinstance(fields, dict):
            problem = FieldProblem(field=where, message="must be an object")
            raise InvalidFieldsError([problem])
        try:
            return self.kind.model_validate({**self.defaults, **fields})
        except ValidationError as error:
            raise InvalidFieldsError(field_problems(error, where)) from None


async def read_batch(
    request: Request,
    kind: type[I],
    query: BaseModel,
    *,
    field: str,
    seconds: float,
    max_items: int,
    max_values: int = 0,
    files: Mapping[str, Split] = MappingProxyType({}),
) -> Batch[I]:
    """Read the items of a request.

    Args:
        request: A request whose body has not been read.
        kind: The type that each item is validated against.
        query: The options from the query string; the body's win.
        field: The field of ``kind`` that a file of a form becomes.
        seconds: The longest time for the body to arrive.
        max_items: The most items of one request.
        max_values: The most values that one item may have in JSON beside its options.
        files: By media type, what makes items of a body that is neither JSON nor a form.

    Raises:
        RequestError: The request as a whole cannot be used.
    """
    items: Sequence[object]
    given: Mapping[str, object]
    media_type = media_type_of(request)
    if media_type == JSON:
        data = await read_body(request, seconds)
        most = (max_items + 1) * MAX_OPTION_VALUES + max_items * max_values
        items, given = await parse_aside(request, data, lambda data: _parse(data, max_items, most))
        where = "body"
    elif media_type == FORM:
        form = await read_form(request, seconds, max_files=max_items)
        items = [{field: file} for file in form.files]
        given, where = form.fields, "form"
    elif media_type in files:
        items = await asyncio.to_thread(files[media_type], await read_body(request, seconds))
        if not 1 <= len(items) <= max_items:
            raise _wrong("body", f"must be 1 to {max_items} items, got {len(items)}")
        given, where = {}, "body"
    else:
        raise UnsupportedBodyError(
            f"a batch comes as {', '.join((FORM, *files))} or {JSON}; Content-Type says "
            f"{shown(media_type)}"
        )
    try:
        options = type(query).model_validate({**query.model_dump(exclude_unset=True), **given})
    except ValidationError as error:
        raise InvalidFieldsError(field_problems(error, where)) from None
    return Batch(kind, options.model_dump(exclude_unset=True), items)


def _parse(data: bytes, max_items: int, most: int) -> tuple[list[object], dict[str, object]]:
    check_structure(data, most)
    try:
        body = from_json(data, allow_inf_nan=False)
    except ValueError:
        raise MalformedBodyError("the body is not valid JSON") from None
    if not isinstance(body, dict) or not isinstance(items := body.pop("items", None), list):
        raise _wrong("body.items", "must be a list of items")
    if not 1 <= len(items) <= max_items:
        raise _wrong("body.items", f"must be 1 to {max_items} items, got {len(items)}")
    # A batch's answer can be posted as it is; how many had succeeded says nothing here.
    options = {name: value for name, value in body.items() if name not in _COUNTS}
    return items, options


def _wrong(field: str, message: str) -> InvalidFieldsError:
    return InvalidFieldsError([FieldProblem(field=field, message=message)])


class Outcomes(Generic[R]):
    """The outcomes of a batch's items, made as many at once as the engines have room for.

    Args:
        batch: The items.
        work: Makes the result of one item.
        feed: Lets the items to the engines.
        call: The deadline of them all.
    """

    def __init__(
        self, batch: Batch[I], work: Callable[[I], Awaitable[R]], feed: ItemFeed, call: Call
    ) -> None:
        self._count = len(batch.items)

        async def one(index: int) -> R | Exception:
            async def made() -> R:
                return await work(await asyncio.to_thread(batch.item, index))

            try:
                return await feed.run(call, made)
            except Exception as error:  # noqa: BLE001  (this item's outcome)
                return error

        self._one = one

    async def all(self) -> list[R | Exception]:
        """A result or an error for each item, in the order of the items."""
        return await asyncio.gather(*map(self._one, range(self._count)))

    async def as_made(self, resources: ExitStack) -> AsyncIterator[tuple[int, R | Exception]]:
        """The outcomes as they are made, each with its item's index.

        Args:
            resources: What is not made when they are released is given up.
        """
        ended: asyncio.Queue[tuple[int, R | Exception]] = asyncio.Queue()

        async def told(index: int) -> None:
            ended.put_nowait((index, await self._one(index)))

        for task in [asyncio.create_task(told(index)) for index in range(self._count)]:
            resources.callback(task.cancel)
        for _ in range(self._count):
            yield await ended.get()
