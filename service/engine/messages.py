"""What travels between gateways and engines in other processes, on Ray and on one machine.

Clocks of machines differ, so a deadline travels as the time that is left. What an engine refuses
travels as a value: an exception would come out wrapped, with a traceback, and count as a failure.
"""

import math
import time
from dataclasses import dataclass
from typing import Self

from flowmo.service.engine.calls import Call, Priority


@dataclass(frozen=True, kw_only=True, slots=True)
class CallMessage:
    """A call on its way to a replica.

    Attributes:
        remaining: The seconds that were left until the call's deadline when it was sent.
        priority: The call's priority.
        tenant: Who asks.
        weight: The tenant's share beside other tenants'.
        refused_by: The ids of the replicas that have refused the call, which had better go to
            another.
    """

    remaining: float
    priority: Priority
    tenant: str | None = None
    weight: float = 1.0
    refused_by: frozenset[str] = frozenset()

    @classmethod
    def of(cls, call: Call, refused_by: frozenset[str] = frozenset()) -> Self:
        """Make the message of a call that is sent now, and may have been refused before."""
        return cls(
            remaining=call.remaining,
            priority=call.priority,
            tenant=call.tenant,
            weight=call.weight,
            refused_by=refused_by,
        )

    def received(self) -> Call:
        """The call as it was received, by the clock of this machine."""
        left = self.remaining
        deadline = math.inf if math.isinf(left) else time.monotonic() + left
        return Call(
            deadline=deadline, priority=self.priority, tenant=self.tenant, weight=self.weight
        )


@dataclass(frozen=True, slots=True)
class RemoteError:
    """An error of a replica, which the gateway raises again.

    Attributes:
        error: The exception as the replica raised it.
        replica: The replica's id.
    """

    error: Exception
    replica: str
