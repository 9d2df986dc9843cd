"""Token sets as clients send them: which model they are for, and whether it can decode them."""

from flowmo.model.container import Container
from flowmo.model.image_tokens import ImageTokens
from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.http.wire import TokensMessage
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
