"""A typed client of a running server.

What it raises, when no answer could be had:

    ClientError                 anything that kept an answer from coming
     ├── ConnectionFailedError  no server there, or the connection broke
     ├── ServerTimeoutError     the server did not answer in time
     └── ServerRefusedError     the server answered with a problem: which, and how to mend it

Example::

    with Client("http://127.0.0.1:8000") as client:
        encoded = client.tokenize(Path("photo.jpg").read_bytes())
        picture = client.detokenize(encoded.container, sampling=Sampling(seed=7, steps=8))
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import httpx

from model.container import MEDIA_TYPE as CONTAINER_MEDIA_TYPE
from model.container import Container

DEFAULT_URL = "http://127.0.0.1:8000"
# A long decode on a CPU takes its time; connecting does not.
DEFAULT_TIMEOUT = 300.0
CONNECT_TIMEOUT = 5.0

Fit = Literal["crop", "pad", "stretch"]
ImageFormat = Literal["png", "jpeg", "webp"]
Schedule = Literal["power", "linear"]


class ClientError(Exception):
    """Something kept an answer from coming."""


class ConnectionFailedError(ClientError):
    """No server there, or the connection broke."""


class ServerTimeoutError(ClientError):
    """The server did not answer in time."""


class ServerRefusedError(ClientError):
    """The server answered with a problem.

    Attributes:
        status: of HTTP.
        code: stable name of the problem, e.g. ``image-too-large``.
        detail: what happened.
        mend: what to do about it.
        request_id: names the occurrence in the server's log.
        retry_after: seconds to wait before trying again, if the server said so.
    """

    def __init__(
        self,
        *,
        status: int,
        code: str,
        detail: str,
        mend: str,
        request_id: str,
        retry_after: float | None,
    ) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.mend = mend
        self.request_id = request_id
        self.retry_after = retry_after
        super().__init__(f"{status} {code}: {detail} {mend}".rstrip())


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens become a picture; what is None is the server's default.

    Attributes:
        seed: of the starting noise; the same seed gives the same picture.
        steps: of the sampler.
        schedule: time grid.
        rho: of schedule ``power``.
        guidance: classifier-free guidance weight; 1 is none.
    """

    seed: int = 0
    steps: int | None = None
    schedule: Schedule | None = None
    rho: float | None = None
    guidance: float | None = None

    def params(self) -> dict[str, str]:
        """Query parameters."""
        given = {
            "seed": self.seed,
            "steps": self.steps,
            "schedule": self.schedule,
            "rho": self.rho,
            "guidance": self.guidance,
        }
        return {name: str(value) for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """A model that is served; the fields are those of ``GET /v1/models``."""

    name: str
    fingerprint: str
    image_size: int
    code_length: int
    token_bits: int
    group_bits: int
    payload_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedImage:
    """Tokens of an image.

    Attributes:
        container: tokens, model fingerprint and size.
        data: the container's bytes as the server sent them.
        token_bytes: size of the packed tokens alone.
        upload_size: width and height of the image that was sent.
        timings: the server's stages in milliseconds.
        seconds: from request to answer, as the client saw it.
    """

    container: Container
    data: bytes
    token_bytes: int
    upload_size: tuple[int, int]
    timings: Mapping[str, float]
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedImage:
    """An image file from the server.

    Attributes:
        data: PNG, JPEG or WebP.
        media_type: which of them.
        seed: that was used.
        steps: that were used.
        guidance: that was used.
        timings: the server's stages in milliseconds.
        seconds: from request to answer, as the client saw it.
    """

    data: bytes
    media_type: str
    seed: int
    steps: int
    guidance: float
    timings: Mapping[str, float]
    seconds: float


class Client:
    """A connection to a server; use it as a context manager, or close it.

    Args:
        url: of the server.
        timeout: longest wait for an answer, in seconds.

    Raises:
        ValueError: not an http or https URL.
    """

    def __init__(self, url: str = DEFAULT_URL, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"a server's URL begins with http:// or https://, got {url!r}")
        limits = httpx.Timeout(timeout, connect=CONNECT_TIMEOUT)
        self._http = httpx.Client(base_url=self.url, timeout=limits)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def tokenize(self, image: bytes, *, fit: Fit = "crop") -> EncodedImage:
        """Tokens of an image file.

        Args:
            image: JPEG, PNG, WebP, AVIF, GIF or BMP.
            fit: how it becomes the model's square.

        Raises:
            ClientError: no tokens came.
        """
        answer = self._post(
            "/v1/tokenize",
            content=image,
            content_type="application/octet-stream",
            accept=CONTAINER_MEDIA_TYPE,
            params={"fit": fit},
        )
        width, _, height = answer.headers["Flowmo-Upload-Size"].partition("x")
        return EncodedImage(
            container=Container.from_bytes(answer.content),
            data=answer.content,
            token_bytes=int(answer.headers["Flowmo-Token-Bytes"]),
            upload_size=(int(width), int(height)),
            timings=_timings(answer),
            seconds=answer.elapsed.total_seconds(),
        )

    def detokenize(
        self,
        container: Container | bytes,
        *,
        sampling: Sampling | None = None,
        format: ImageFormat = "png",
        quality: int | None = None,
    ) -> DecodedImage:
        """The image of tokens.

        Args:
            container: as :meth:`tokenize` gave it, or its bytes.
            sampling: seed, steps and guidance.
            format: of the answer.
            quality: 1 to 100, of JPEG and WebP.

        Raises:
            ClientError: no image came.
        """
        answer = self._post(
            "/v1/detokenize",
            content=container if isinstance(container, bytes) else container.to_bytes(),
            content_type=CONTAINER_MEDIA_TYPE,
            accept=f"image/{format}",
            params=_decode_params(sampling, quality),
        )
        return _decoded(answer)

    def reconstruct(
        self,
        image: bytes,
        *,
        fit: Fit = "crop",
        sampling: Sampling | None = None,
        format: ImageFormat = "png",
        quality: int | None = None,
    ) -> DecodedImage:
        """An image file through tokens and back; arguments as of the other two.

        Raises:
            ClientError: no image came.
        """
        answer = self._post(
            "/v1/reconstruct",
            content=image,
            content_type="application/octet-stream",
            accept=f"image/{format}",
            params=_decode_params(sampling, quality) | {"fit": fit},
        )
        return _decoded(answer)

    def models(self) -> list[ModelInfo]:
        """What the server serves.

        Raises:
            ClientError: no answer came.
        """
        answer = self._request("GET", "/v1/models")
        names = ModelInfo.__slots__
        return [
            ModelInfo(**{name: model[name] for name in names}) for model in answer.json()["models"]
        ]

    def is_ready(self) -> bool:
        """Whether the server has warmed up; false when there is none."""
        try:
            self._request("GET", "/readyz")
        except ClientError:
            return False
        return True

    def _post(
        self,
        path: str,
        *,
        content: bytes,
        content_type: str,
        accept: str,
        params: Mapping[str, str],
    ) -> httpx.Response:
        headers = {"Content-Type": content_type, "Accept": accept}
        return self._request("POST", path, content=content, headers=headers, params=params)

    def _request(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        try:
            answer = self._http.request(
                method, path, content=content, headers=headers, params=params
            )
        except httpx.ConnectError as error:
            raise ConnectionFailedError(
                f"no server at {self.url} ({error}); start one with: flowmo serve"
            ) from error
        except httpx.TimeoutException as error:
            raise ServerTimeoutError(f"{self.url} did not answer in time ({error})") from error
        except httpx.HTTPError as error:
            raise ConnectionFailedError(f"the connection to {self.url} broke: {error}") from error
        if not answer.is_success:
            raise _refusal(answer)
        return answer


def _decode_params(sampling: Sampling | None, quality: int | None) -> dict[str, str]:
    params = (sampling or Sampling()).params()
    return params if quality is None else params | {"quality": str(quality)}


def _decoded(answer: httpx.Response) -> DecodedImage:
    return DecodedImage(
        data=answer.content,
        media_type=answer.headers["Content-Type"],
        seed=int(answer.headers["Flowmo-Seed"]),
        steps=int(answer.headers["Flowmo-Steps"]),
        guidance=float(answer.headers["Flowmo-Guidance"]),
        timings=_timings(answer),
        seconds=answer.elapsed.total_seconds(),
    )


def _timings(answer: httpx.Response) -> dict[str, float]:
    timings = {}
    for entry in answer.headers.get("Server-Timing", "").split(","):
        name, _, value = entry.strip().partition(";dur=")
        if value:
            timings[name] = float(value)
    return timings


def _refusal(answer: httpx.Response) -> ServerRefusedError:
    """The server's problem; something between may have answered in another form."""
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    wait = answer.headers.get("Retry-After", "")
    return ServerRefusedError(
        status=answer.status_code,
        code=str(problem.get("code", "unknown")),
        detail=str(problem.get("detail", answer.reason_phrase)),
        mend=str(problem.get("mend", "")),
        request_id=answer.headers.get("X-Request-ID", ""),
        retry_after=float(wait) if wait.isdecimal() else None,
    )
