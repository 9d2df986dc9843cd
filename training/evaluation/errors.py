"""What can go wrong in an evaluation, beside its pictures and libraries (training.errors).

FlowMoError (model.errors)
└── EvaluationError   what was asked for cannot be done, or not in this folder
"""

from flowmo.model.errors import FlowMoError


class EvaluationError(FlowMoError, ValueError):
    """An evaluation was asked for that cannot be."""
