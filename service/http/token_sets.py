"""Token sets as clients send them: which model they are for, and whether it can decode them."""

from flowmo.model.container import MEDIA_TYPE as CONTAINER_MEDIA_TYPE
from flowmo.model.container import Container
from flowmo.model.errors import TokenError
from flowmo.model.image_tokens import ImageTokens
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.http.token_files import PACKED, TokenArray
from flowmo.service.http.wire.tokens import TokensMessage
from flowmo.service.models import Models, Served

SentTokens = Container | TokensMessage


def model_for(models: Models, sent: SentTokens, name: str | None) -> Served:
    """Choose the model that a client named, else the one that made its tokens, else the default.

    Raises:
        UnknownModelError: None is served under the name that was given.
    """
    if name is None and sent.fingerprint is not None:
        # None of these weights: the default, whose check says that they are of another model.
        return models.of_weights(sent.fingerprint) or models.default
    if name is None and isinstance(sent, TokensMessage):
        name = sent.model
    return models.choose(name)


def tokens_for(
    sent: SentTokens, info: ModelInfo, *, max_pixels: int, max_tiles: int
) -> ImageTokens:
    """Take tokens as a model can decode them.

    Args:
        sent: The tokens as they came.
        info: The model.
        max_pixels: The most pixels of what they decode to.
        max_tiles: The most tiles.

    Raises:
        ContainerMismatchError: The tokens were made by another model.
        PictureTooLargeError: The picture is larger than the limits.
        TokenError: The tokens have another shape.
    """
    if isinstance(sent, TokensMessage):
        tokens = sent.to_tokens(info)
    else:
        sent.check_model(info.fingerprint, info.config)
        tokens = ImageTokens.of(sent)
    tokens.layout.check_limits(max_pixels=max_pixels, max_tiles=max_tiles)
    return tokens


def compact(tokens: ImageTokens, info: ModelInfo, media_type: str, *, model: str) -> bytes:
    """Write tokens in one of the forms that are no JSON.

    Args:
        tokens: A token set of a model of ``info``'s shapes.
        info: The model that is served.
        media_type: The form: a container, an array, or the packed bits.
        model: The name under which the model is served.

    Raises:
        TokenError: The picture has several tiles, and the form holds one.
    """
    if media_type == CONTAINER_MEDIA_TYPE:
        return tokens.to_bytes()
    check_one_tile(tokens, media_type)
    if media_type == PACKED:
        return tokens.pack()
    array = TokenArray.of([tokens], info.config, fingerprint=tokens.fingerprint, model=model)
    return array.to_bytes(media_type)


def check_one_tile(tokens: ImageTokens, media_type: str) -> None:
    """Refuse a picture of several tiles for a form that does not say where they lie.

    Raises:
        TokenError: It has several.
    """
    layout = tokens.layout
    if layout.tiles > 1:
        raise TokenError(
            f"a picture of {layout.width} x {layout.height} pixels takes {layout.tiles} tiles, and "
            f"{media_type} holds one: ask for {CONTAINER_MEDIA_TYPE} or JSON, or for a square with "
            f"fit=crop, pad or stretch"
        )
