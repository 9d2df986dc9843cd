"""Several pictures in one request: each item has its own outcome, and none costs another anything.

    {"items": [{"image": "…"}, {"image": "…", "fit": "pad"}], "model": "lo"}

An item is what the body of the single route would be; the batch's own options hold for items that
say nothing. As a form, each file is an item and the other fields are options.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Batch(Generic[I]):
    """The items of a batch request, before they are validated.

    Attributes:
        kind: The type that each item is validated against.
        defaults: The batch's own options, which hold for items that say nothing.
        items: The fields of each item.
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
        """
        fields = self.items[index]
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
    else:
        raise UnsupportedBodyError(
            f"a batch comes as {FORM} or {JSON}; Content-Type says {shown(media_type)}"
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


async def outcomes(
    batch: Batch[I], work: Callable[[I], Awaitable[R]], feed: ItemFeed, call: Call
) -> list[R | Exception]:
    """Do ``work`` for the items, as many at once as the engines have room for.

    Args:
        batch: The items.
        work: Makes the result of one item.
        feed: Lets the items to the engines.
        call: The deadline of them all.

    Returns:
        A result or an error for each item, in the order of the items.
    """

    async def one(index: int) -> R | Exception:
        async def made() -> R:
            return await work(await asyncio.to_thread(batch.item, index))

        try:
            return await feed.run(call, made)
        except Exception as error:  # noqa: BLE001  (this item's outcome)
            return error

    return await asyncio.gather(*(one(index) for index in range(len(batch.items))))
