"""Token sets as clients send them: which model they are for, and whether it can decode them."""

from flowmo.model.container import Container
from flowmo.model.tokens import Tokens
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


def tokens_for(sent: SentTokens, info: ModelInfo) -> Tokens:
    """Take tokens as a model can decode them.

    Raises:
        ContainerMismatchError: The tokens were made by another model.
        TokenError: The tokens have another shape.
    """
    if isinstance(sent, TokensMessage):
        return sent.to_tokens(info)
    sent.check_model(info.fingerprint, info.config)
    return sent.tokens.tile(0) if sent.tokens.tile_count == 1 else sent.tokens


def containered(tokens: Tokens, info: ModelInfo, fingerprint: str) -> bytes:
    """Write tokens as a container.

    Args:
        tokens: A token set of a model of ``info``'s shapes.
        info: The model that is served.
        fingerprint: The fingerprint of the weights that made the tokens.
    """
    side = info.image_size
    return Container(tokens=tokens, fingerprint=fingerprint, width=side, height=side).to_bytes()
