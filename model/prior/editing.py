"""Which ids stay where tokens are edited: the caller's tokens and mask as a row of ids.

Shape legend: K tokens an image, h = D / G ids a token, N = K h ids an image.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowmo.model.errors import TokenError
from flowmo.model.prior.config import PriorConfig
from flowmo.model.tokens import Tokens


def row_of_ids(tokens: Tokens, config: PriorConfig) -> NDArray[np.int64]:
    """The ids of one square in the order that a prior has them, int64 [N].

    Args:
        tokens: The tokens of one tile of the prior's tokenizer.
        config: The prior.

    Raises:
        TokenError: They have another shape.
    """
    came = (tokens.tile_count, tokens.code_length, tokens.ids_per_token, tokens.group_bits)
    wanted = (1, config.code_length, config.ids_per_token, config.group_bits)
    if came != wanted:
        raise TokenError(
            f"the prior {config.name!r} edits one square of {wanted[1]} tokens of {wanted[2]} ids "
            f"of {wanted[3]} bits, got {came[0]} of {came[1]} tokens of {came[2]} ids of "
            f"{came[3]} bits"
        )
    return tokens.ids.reshape(-1).astype(np.int64)


def kept_ids(mask: ArrayLike, config: PriorConfig) -> NDArray[np.bool_]:
    """A mask of tokens or of ids as one of ids, bool [N].

    Args:
        mask: Bools [K], true for each token that stays; or [K, h], true for each id.
        config: The prior.

    Raises:
        TokenError: It has another shape, or other values.
    """
    try:
        given = np.asarray(mask)
    except ValueError:  # lists of different lengths
        given = np.empty(0, np.float64)
    tokens, each = config.code_length, config.ids_per_token
    if given.dtype != np.bool_ or given.shape not in {(tokens,), (tokens, each)}:
        raise TokenError(
            f"a mask is {tokens} times true or false, true for each token that stays, or "
            f"{tokens} x {each} of them for each id; got {given.dtype} of the shape "
            f"{list(given.shape)}"
        )
    whole = np.broadcast_to(given.reshape(tokens, -1), (tokens, each))
    kept: NDArray[np.bool_] = whole.reshape(-1).copy()
    return kept


def tokens_of_ids(ids: NDArray[np.integer], config: PriorConfig) -> Tokens:
    """The tokens of one square from a row of ids [N], none of them masked.

    Raises:
        TokenError: An id is out of its range.
    """
    rows = ids.reshape(config.code_length, config.ids_per_token)
    return Tokens(ids=rows.astype(np.int32), group_bits=config.group_bits)
