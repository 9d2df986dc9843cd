"""Lists of images: what goes into one request, and which of its items are asked for again."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import httpx

from flowmo.client import answers
from flowmo.client.errors import ServerRefusedError
from flowmo.client.inputs import Picture, TokenSource, check_files, picture_bytes, token_bytes
from flowmo.client.requests import Operation, decode_params, fit_params
from flowmo.client.retry import is_temporary
from flowmo.client.values import DecodedImage, EncodedImage, Fit, ImageFormat, Sampling

DEFAULT_BATCH_SIZE = 16
MAX_BATCH_SIZE = 64
# Half of what a server takes in one body unless it is set up otherwise.
MAX_BATCH_BYTES = 16 * 2**20

T = TypeVar("T")
Outcomes = list[T | ServerRefusedError]


class Chunk(Generic[T]):
    """Items of one request, asked for until each has an answer that stays.

    Args:
        items: The bodies, in order.
        ask: Makes the request for some of them.
    """

    def __init__(
        self, items: Sequence[bytes], ask: Callable[[Sequence[bytes]], Operation[Outcomes[T]]]
    ) -> None:
        self._items, self._ask = items, ask
        self._outcomes: dict[int, T | ServerRefusedError] = {}
        self._pending = list(range(len(items)))

    @property
    def outcomes(self) -> Outcomes[T]:
        """One for each item, in order."""
        return [self._outcomes[index] for index in range(len(self._items))]

    def operation(self) -> Operation[Outcomes[T]]:
        """The request for what is still to be had."""
        return self._ask([self._items[index] for index in self._pending])

    def take(self, outcomes: Outcomes[T]) -> ServerRefusedError | None:
        """Keep what the server answered.

        Returns:
            Of the refusals that may not last the one with the longest wait; None if there is none.
        """
        self._outcomes.update(zip(self._pending, outcomes, strict=True))
        refused = {
            index: outcome
            for index, outcome in zip(self._pending, outcomes, strict=True)
            if isinstance(outcome, ServerRefusedError) and is_temporary(outcome)
        }
        self._pending = list(refused)
        return max(refused.values(), key=lambda error: error.retry_after or 0.0, default=None)

    def refuse(self, error: ServerRefusedError) -> None:
        """The request as a whole was refused: so is all that is still to be had."""
        self._outcomes.update(dict.fromkeys(self._pending, error))


def tokenize(
    images: Sequence[Picture], *, fit: Fit, overlap: float | None, batch_size: int
) -> Iterator[Chunk[EncodedImage]]:
    """The requests for the tokens of images, each made when the ones before it are done."""
    params = {**fit_params(fit, overlap), "tokens": "container"}
    check_files(images)
    items = (picture_bytes(image) for image in images)
    return _chunks(items, "/v1/tokenize/batch", params, answers.encoded_item, batch_size)


def detokenize(
    tokens: Sequence[TokenSource],
    *,
    sampling: Sampling | None,
    format: ImageFormat,
    quality: int | None,
    batch_size: int,
) -> Iterator[Chunk[DecodedImage]]:
    """The requests for the images of tokens, likewise."""
    check_files(tokens)
    items = (token_bytes(one) for one in tokens)
    params = {**decode_params(sampling, quality), "format": format}
    return _chunks(items, "/v1/detokenize/batch", params, answers.decoded_item, batch_size)


def reconstruct(
    images: Sequence[Picture],
    *,
    fit: Fit,
    overlap: float | None,
    sampling: Sampling | None,
    format: ImageFormat,
    quality: int | None,
    batch_size: int,
) -> Iterator[Chunk[DecodedImage]]:
    """The requests for images through tokens and back, likewise."""
    params = {**decode_params(sampling, quality), "format": format, **fit_params(fit, overlap)}
    check_files(images)
    items = (picture_bytes(image) for image in images)
    return _chunks(items, "/v1/reconstruct/batch", params, answers.decoded_item, batch_size)


def _chunks(
    items: Iterable[bytes],
    path: str,
    params: Mapping[str, str],
    read_item: Callable[[Mapping[str, Any], httpx.Response], T],
    batch_size: int,
) -> Iterator[Chunk[T]]:
    if not 1 <= batch_size <= MAX_BATCH_SIZE:
        raise ValueError(f"batch_size must be 1 to {MAX_BATCH_SIZE}, got {batch_size}")

    def ask(files: Sequence[bytes]) -> Operation[Outcomes[T]]:
        def read(answer: httpx.Response) -> Outcomes[T]:
            came = answer.json()["items"]
            if len(came) != len(files):
                raise ValueError(f"{len(files)} items were sent, {len(came)} came back")
            return [_outcome(answers.members(item), answer, read_item) for item in came]

        return Operation(method="POST", path=path, read=read, params=dict(params), files=files)

    return (Chunk(some, ask) for some in split(items, batch_size, MAX_BATCH_BYTES))


def _outcome(
    item: Mapping[str, Any],
    answer: httpx.Response,
    read_item: Callable[[Mapping[str, Any], httpx.Response], T],
) -> T | ServerRefusedError:
    if "problem" not in item:
        return read_item(item, answer)
    return answers.refusal_of(
        answers.members(item["problem"]),
        status=int(item["status"]),
        request_id=answer.headers.get("X-Request-ID", ""),
    )


def split(items: Iterable[bytes], most_items: int, most_bytes: int) -> Iterator[list[bytes]]:
    """Runs of items in order, as long as both limits allow; an item of its own may be larger.

    Items are taken as runs are asked for: of many files only a request's are in memory.
    """
    run: list[bytes] = []
    size = 0
    for item in items:
        if run and (len(run) == most_items or size + len(item) > most_bytes):
            yield run
            run, size = [], 0
        run.append(item)
        size += len(item)
    if run:
        yield run
