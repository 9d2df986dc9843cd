"""The ``flowmo`` command.

Command modules are small and import torch, the service and training only when they run, so that
``flowmo --help`` is quick.
"""

from flowmo.cli.app import app, main

__all__ = ["app", "main"]
