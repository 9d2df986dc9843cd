"""What both clients share: their options, and httpx's errors as this package's own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import httpx

from flowmo._version import __version__
from flowmo.client import answers
from flowmo.client.attempts import Attempts
from flowmo.client.calls import Call, CallOptions, new_request_id
from flowmo.client.errors import ConnectionFailedError, ServerTimeoutError, UnexpectedAnswerError
from flowmo.client.requests import Operation

DEFAULT_URL = "http://127.0.0.1:8000"
# A long decode on a CPU takes its time.
DEFAULT_TIMEOUT = 300.0

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """Where a server is and how it is spoken to.

    Attributes:
        url: The address of the server, without a slash at its end.
        api_key: The key that is sent with every request; None sends none.
        timeout: The longest wait for an answer, in seconds.
        defaults: The options of calls that give none.

    Raises:
        ValueError: The URL is not an http or https URL, or no header can carry the key.
    """

    url: str
    api_key: str | None = field(repr=False)
    timeout: float
    defaults: Call

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ValueError(f"{self.url!r} is no URL: {error}") from None
        if url.scheme not in {"http", "https"} or not url.host:
            raise ValueError(
                f"a server's URL begins with http:// or https:// and a host, got {self.url!r}"
            )
        key = self.api_key
        if key is not None and (not key or not key.isascii() or not key.isprintable()):
            # Not shown: it is a secret.
            raise ValueError("api_key must be printable ASCII characters, at least one")

    def headers(self) -> dict[str, str]:
        """The headers of every request."""
        headers = {"User-Agent": f"flowmo-serve/{__version__}"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers

    def attempts(self, options: CallOptions, now: Callable[[], float]) -> Attempts:
        """The attempts of one request.

        Args:
            options: The options of its call.
            now: Tells the time in seconds.

        Raises:
            TypeError: There is no such option.
            ValueError: An option is out of range.
        """
        given: CallOptions = {"request_id": new_request_id(), **options}
        return Attempts(replace(self.defaults, **given), timeout=self.timeout, now=now)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raises httpx's errors as this package's own."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ConnectionFailedError(
                f"no server at {self.url} ({_told(error)}); start one with: flowmo serve"
            ) from error
        except httpx.TimeoutException as error:
            raise ServerTimeoutError(
                f"{self.url} did not answer in time ({_told(error)})"
            ) from error
        except httpx.DecodingError as error:
            raise self._unexpected(error) from error
        except httpx.HTTPError as error:
            raise ConnectionFailedError(
                f"the connection to {self.url} broke: {_told(error)}"
            ) from error

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raises what is wrong with an answer's content as this package's own error."""
        try:
            yield
        except (LookupError, TypeError, ValueError) as error:
            raise self._unexpected(error) from error

    def read(self, operation: Operation[T], answer: httpx.Response) -> T:
        """The value of a whole answer.

        Raises:
            UnexpectedAnswerError: The answer has none.
        """
        with self.reading():
            return operation.read(answer)

    def _unexpected(self, error: Exception) -> UnexpectedAnswerError:
        return UnexpectedAnswerError(
            f"{self.url} does not answer as this service does ({_told(error)}); "
            f"is it the right URL?"
        )


def check(answer: httpx.Response) -> None:
    """Raise the problem that an answer is, if it is one.

    Raises:
        ServerRefusedError: The status is any but 2xx.
    """
    if not answer.is_success:
        raise answers.refusal(answer)


def _told(error: Exception) -> str:
    """Some errors have no words of their own, or too few."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return str(error) or type(error).__name__
