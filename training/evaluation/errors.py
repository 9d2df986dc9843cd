"""What can go wrong in an evaluation, beside its pictures (training.errors.DataError).

FlowMoError (model.errors)
├── EvaluationError   what was asked for cannot be done, or not in this folder
└── LibraryError      a library of the extra `train` is missing or does not load
"""

from model.errors import FlowMoError


class EvaluationError(FlowMoError, ValueError):
    """An evaluation was asked for that cannot be."""


class LibraryError(FlowMoError, ImportError):
    """A library that a figure needs cannot be imported."""
