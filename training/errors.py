"""What can go wrong in training, beside a bad config.

FlowMoError (model.errors)
├── DataError        the images: none found, unreadable container, too many corrupt
├── DivergedError    the loss stays non-finite
└── LibraryError     a library of the extra `train`, or its weights, cannot be had
"""

from flowmo.model.errors import FlowMoError


class DataError(FlowMoError, ValueError):
    """The training images cannot be used."""


class DivergedError(FlowMoError, RuntimeError):
    """Training produced non-finite gradients several steps in a row."""


class LibraryError(FlowMoError, ImportError):
    """A library that something needs cannot be imported, or cannot fetch its weights."""
