"""Which replica of an encoder or a decoder gets a piece of work: one that has not refused it.

Ray probes how many requests two replicas have and takes the one with fewer. Requests say little
about work, so a replica may refuse what another one could do in time. The gateway then sends the
work again, and its message names who has refused it.
"""

import random
from collections.abc import Iterable

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica

from flowmo.service.engine.messages import CallMessage

# The power of two choices: nearly as even as asking all, for two probes.
_CHOICES = 2


class OtherReplicaRouter(FIFOMixin, RequestRouter):
    """Chooses two replicas at random among those that have not refused the work.

    When several pieces of work wait for a replica at the same time the oldest gets the first that
    is chosen, so that a refusal may be met again; the gateway counts its tries, not the replicas.
    """

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Choose the replicas that Ray probes; see :class:`ray.serve.request_router`.

        Args:
            candidate_replicas: Those that run.
            pending_request: The work, whose message says who has refused it.

        Returns:
            One rank of at most two replicas; none if there are none.
        """
        refused = frozenset[str]()
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
            arguments = (*pending_request.args, *pending_request.kwargs.values())
            refused = refused_by(arguments)
        others = [r for r in candidate_replicas if r.replica_id.unique_id not in refused]
        choices = others or list(candidate_replicas)
        return [random.sample(choices, min(_CHOICES, len(choices)))] if choices else []


def refused_by(arguments: Iterable[object]) -> frozenset[str]:
    """The replicas that have refused a call, by what its message says.

    Args:
        arguments: The arguments of the call.
    """
    for argument in arguments:
        if isinstance(argument, CallMessage):
            return argument.refused_by
    return frozenset()
