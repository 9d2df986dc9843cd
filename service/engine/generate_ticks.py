"""The ticks of the generator's engine: how they are made, and what they hand over."""

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from flowmo.model.prior.editing import tokens_of_ids
from flowmo.model.prior.sampler import randomness_at, temperature_at, unmask
from flowmo.service.engine.calls import Timings
from flowmo.service.engine.device import DeviceThread
from flowmo.service.engine.fairness import FairQueue
from flowmo.service.engine.generate_calls import Generated, GenerateProgress
from flowmo.service.engine.generate_work import GenerateTick, GenerateWork
from flowmo.service.engine.observer import EngineKind, EngineObserver
from flowmo.service.engine.runner import GeneratorRunner
from flowmo.service.engine.step_ticks import StepTicks

if TYPE_CHECKING:
    from torch import Tensor


class GenerateTicks(StepTicks[GenerateWork, GenerateTick]):
    """The generator's ticks.

    Args:
        runner: What computes logits.
        device: See :class:`StepTicks`, as of the others.
        observer: Is notified of what happens.
        works: The generations inside.
        clock: Gives the time, in seconds.
    """

    kind: ClassVar[EngineKind] = "generator"
    what = "generation"

    def __init__(
        self,
        runner: GeneratorRunner,
        device: DeviceThread,
        observer: EngineObserver,
        works: FairQueue[GenerateWork],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(device, observer, works, clock)
        self._runner, self._config = runner, runner.info.config

    def release(self, work: GenerateWork) -> None:
        """See :meth:`StepTicks.release`."""
        work.ids = work.uniform = None

    @torch.inference_mode()
    def begin(self, jobs: Sequence[GenerateWork], bucket: int) -> bool:
        """See :meth:`StepTicks.begin`."""
        begin = self._clock()
        for work in jobs:
            if work.is_placed:
                continue
            work.begun = begin if work.begun is None else work.begun
            try:
                work.ids = _present(work.ids).to(self._runner.device, non_blocking=True)
                work.is_placed = True
            except Exception as error:  # noqa: BLE001
                self._not_taken_up(work, jobs, error)
                return False
        # Those with guidance first, so that their rows without a class follow all others.
        batch = sorted(jobs, key=lambda work: -work.ready_rows)
        rows = sum(work.ready_rows for work in batch)
        made = False
        try:
            ids, drawn = self._unmask(batch, bucket)
            for work, own in zip(batch, ids, strict=True):
                work.advance(own)
            made = True
            wanted = [
                index
                for index, work in enumerate(batch)
                if work.watch is not None and work.step in work.watch.previews
            ]
            previews = self._runner.to_host(drawn[wanted]) if wanted else ()
            ended = [index for index, work in enumerate(batch) if not work.steps_left]
            found = self._runner.to_host(ids[ended]) if ended else ()
            marker = self._runner.record()
        except Exception as error:  # noqa: BLE001
            self._failed(jobs, bucket, error, made=made)
            return False
        self._launched(
            GenerateTick(
                batch=batch,
                bucket=bucket,
                rows=rows,
                begun=begin,
                steps=[work.step for work in batch],
                previews=dict(zip(wanted, previews, strict=True)),
                done=[batch[index] for index in ended],
                ids=list(found),
                marker=marker,
            )
        )
        return True

    def _unmask(self, batch: Sequence[GenerateWork], bucket: int) -> "tuple[Tensor, Tensor]":
        """Make one step of each generation; what :func:`unmask` gives."""
        mask_id, null = self._config.mask_id, self._config.null_class
        ids = torch.stack([_present(work.ids) for work in batch])
        steps = [(work.step + 1, len(work.plan)) for work in batch]
        samplers = [work.options.sampler for work in batch]
        return unmask(
            ids,
            self._logits(batch, ids, bucket, null),
            counts_B=torch.tensor([work.plan[work.step] for work in batch]),
            mask_id=mask_id,
            temperature_B=torch.tensor(
                [temperature_at(one, *at) for one, at in zip(samplers, steps, strict=True)]
            ),
            randomness_B=torch.tensor(
                [randomness_at(one, *at) for one, at in zip(samplers, steps, strict=True)]
            ),
            uniform_B2N=torch.stack([work.numbers() for work in batch]),
        )

    def _logits(
        self, batch: Sequence[GenerateWork], ids: "Tensor", bucket: int, null: int
    ) -> "Tensor":
        """The guided logits of a batch, [n, N, V] of its n generations."""
        n = len(batch)
        weights = [work.options.sampler.guidance for work in batch if work.ready_rows > 1]
        guided = len(weights)
        classes = [
            # Of weight 0 the class says nothing.
            null if work.options.sampler.guidance == 0 else work.options.class_number
            for work in batch
        ]
        padding = bucket - n - guided
        parts = [ids, ids[:guided], ids[-1:].expand(padding, -1)]
        numbers = [*classes, *[null] * guided, *classes[-1:] * padding]
        rows = torch.cat(parts) if len(numbers) > n else ids
        logits = self._runner.logits(rows, numbers)
        own = logits[:n]
        if not guided:
            return own
        without = logits[n : n + guided]
        weight = torch.tensor(weights).view(-1, 1, 1).to(logits.device, non_blocking=True)
        shifted = without + weight * (own[:guided] - without)
        return torch.cat([shifted, own[guided:]]) if guided < n else shifted

    def _hand_over(self, tick: GenerateTick, now: float, seconds: float) -> None:
        """See :meth:`StepTicks._hand_over`."""
        for index, work in enumerate(tick.batch):
            work.seconds.append(seconds)
            if work.watch is not None:
                ids = tick.previews.get(index)
                tokens = None if ids is None else tokens_of_ids(ids, self._config)
                progress = GenerateProgress(
                    step=tick.steps[index], steps=len(work.plan), tokens=tokens
                )
                # The loop is closed when its server was stopped hard.
                with contextlib.suppress(RuntimeError):
                    if work.loop is not None:
                        work.loop.call_soon_threadsafe(work.watch.on_progress, progress)
        for work, ids in zip(tick.done, tick.ids, strict=True):
            assert work.begun is not None
            timings = Timings(
                queue=work.begun - work.submitted, run=now - work.begun, steps=tuple(work.seconds)
            )
            work.succeed(
                Generated(
                    tokens=tokens_of_ids(ids, self._config),
                    sampler=work.options.sampler,
                    prior=self._runner.info.fingerprint,
                    timings=timings,
                )
            )


def _present(tensor: "Tensor | None") -> "Tensor":
    assert tensor is not None
    return tensor
