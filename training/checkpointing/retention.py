"""Which checkpoints of a run stay."""

from collections.abc import Iterable


def superfluous(steps: Iterable[int], *, last: int, every: int, best: int | None) -> list[int]:
    """Steps whose checkpoints may go.

    Args:
        steps: that have one.
        last: so many of the latest stay, at least 1.
        every: multiples of this stay, too; 0 for none.
        best: the step of the best validation: the latest checkpoint up to it stays; None if there
            is no such wish.
    """
    ordered = sorted(steps)
    kept = set(ordered[-last:])
    if every:
        kept |= {step for step in ordered if step % every == 0}
    if best is not None:
        kept |= set([step for step in ordered if step <= best][-1:])
    return [step for step in ordered if step not in kept]
