"""The forms in which the service runs, where they make a difference to the HTTP routes."""

from enum import Enum


class Form(Enum):
    """What else there is beside the process that answers.

    Attributes:
        ALONE: Nothing: the engines are in the same process.
        WORKERS: One of several gateways of one machine, in front of an engine process.
        CLUSTER: One of several gateways behind Ray's proxies, in front of replicas.
    """

    ALONE = "alone"
    WORKERS = "workers"
    CLUSTER = "cluster"
