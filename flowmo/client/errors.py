"""What the clients raise when no answer could be had.

ClientError                 anything that kept an answer from coming
 ├── ConnectionFailedError  no server there, or the connection broke
 ├── ServerTimeoutError     the server did not answer in time
 ├── ServerRefusedError     the server answered with a problem: which, and a hint
 └── UnexpectedAnswerError  something answered, but not as this service does
"""


class ClientError(Exception):
    """Something kept an answer from coming."""


class ConnectionFailedError(ClientError):
    """No server there, or the connection broke."""


class ServerTimeoutError(ClientError):
    """The server did not answer in time."""


class UnexpectedAnswerError(ClientError):
    """Something answered, but not as this service does."""


class ServerRefusedError(ClientError):
    """The server answered with a problem.

    Attributes:
        status: of HTTP.
        code: stable name of the problem, e.g. ``image-too-large``.
        detail: what happened.
        hint: what to do about it.
        request_id: names the occurrence in the server's log.
        retry_after: seconds to wait before trying again, if the server said so.
    """

    def __init__(
        self,
        *,
        status: int,
        code: str,
        detail: str,
        hint: str,
        request_id: str,
        retry_after: float | None,
    ) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.hint = hint
        self.request_id = request_id
        self.retry_after = retry_after
        super().__init__(f"{status} {code}: {detail} {hint}".rstrip())
