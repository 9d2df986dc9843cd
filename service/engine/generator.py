"""The generator's engine: one batch of logits a tick, its rows at any step of any request.

A step of a sample is one row or, where it is guided, two: with its class and without. How work
joins, leaves and is refused is :class:`StepEngine`'s.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch

from flowmo.model.errors import ConfigError
from flowmo.model.prior.editing import row_of_ids, tokens_of_ids
from flowmo.model.prior.sampler import masked_start
from flowmo.service.engine.calls import (
    DEFAULT_MAX_QUEUED_REQUESTS,
    NO_DEADLINE,
    Batching,
    Call,
    Timings,
)
from flowmo.service.engine.device import DeviceThread
from flowmo.service.engine.fairness import FairQueue
from flowmo.service.engine.generate_calls import Generated, GenerateOptions, GenerateWatch
from flowmo.service.engine.generate_ticks import GenerateTicks
from flowmo.service.engine.generate_work import GenerateWork, load_of, plan_of, rows_of
from flowmo.service.engine.observer import EngineKind, EngineObserver
from flowmo.service.engine.runner import GeneratorRunner
from flowmo.service.engine.schedule import BucketTimes, measure, worthwhile
from flowmo.service.engine.step_engine import StepEngine
from flowmo.service.engine.step_ticks import MIN_ROWS
from flowmo.service.engine.work import result_by_deadline
from flowmo.service.errors import OtherWeightsError


class GeneratorEngine(StepEngine[GenerateWork]):
    """Generates tokens for many clients.

    Args:
        runner: What computes logits.
        device: The thread that the runner is called on.
        observer: Is notified of what happens.
        max_queued_requests: How many images may be inside at once; more are refused.
        batching: See :class:`StepEngine`.
        clock: Gives the time, in seconds.
    """

    kind: ClassVar[EngineKind] = "generator"
    plural = "generations"

    def __init__(
        self,
        runner: GeneratorRunner,
        device: DeviceThread,
        observer: EngineObserver,
        *,
        max_queued_requests: int = DEFAULT_MAX_QUEUED_REQUESTS,
        batching: Batching = "step",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        works = FairQueue[GenerateWork]()
        super().__init__(
            GenerateTicks(runner, device, observer, works, clock),
            works,
            device,
            observer,
            buckets=runner.buckets,
            seconds_of=self._seconds_of_batch,
            max_queued_requests=max_queued_requests,
            batching=batching,
            clock=clock,
        )
        self._runner = runner

    async def generate(
        self,
        options: GenerateOptions,
        call: Call = NO_DEADLINE,
        watch: GenerateWatch | None = None,
    ) -> Generated:
        """Generate the tokens of one image.

        Args:
            options: Class, seed and sampler; the tokens to keep; whether fewer steps will do.
            call: The deadline and the priority.
            watch: How progress is reported; it is not without it.

        Raises:
            model.errors.ConfigError: There is no such class.
            model.errors.TokenError: The tokens to keep have another shape than the prior's.
            OtherWeightsError: Another prior is meant.
            QueueFullError: As many generations as there may be are inside.
            DeadlineUnreachableError: It would not be done in time.
            DeadlineExceededError: It was not done in time.
            ComputeError: A batch that it was in failed.
            EngineStoppedError: The device thread has ended.
        """
        info = self._runner.info
        config = info.config
        if options.prior not in {None, info.fingerprint}:
            raise OtherWeightsError(
                f"the prior {options.prior} is meant, this is {info.fingerprint}"
            )
        if not 0 <= options.class_number <= config.null_class:
            raise ConfigError(
                f"classes are 0 ... {config.null_class} (none), got {options.class_number}"
            )
        known = kept = None
        if options.known is not None and options.kept is not None:
            known = torch.from_numpy(row_of_ids(options.known, config))
            kept = torch.tensor(options.kept)  # a copy: what came may be read-only
        (ids,) = masked_start(1, config.length, config.mask_id, known=known, keep=kept)
        unknown = int((ids == config.mask_id).sum())
        if not unknown:
            return Generated(
                tokens=tokens_of_ids(ids.numpy(), config),
                sampler=options.sampler,
                prior=self._runner.info.fingerprint,
                timings=Timings(queue=0.0, run=0.0),
            )
        load = load_of(options, unknown, config.null_class)
        with self._device.changed:
            self._check_running()
            self._refuse_full()
            steps = self._steps_in_time(call, load, "the generation", degrade=options.degrade)
            if steps < load.steps:
                options = replace(options, sampler=options.sampler.changed(steps=steps))
            plan = plan_of(options, unknown)
            work = GenerateWork(
                call=call,
                submitted=self._clock(),
                rows=(rows_of(options, config.null_class),) * len(plan),
                options=options,
                watch=watch,
                loop=asyncio.get_running_loop(),
                plan=plan,
                ids=ids,
                generator=torch.Generator().manual_seed(options.seed),
            )
            self._add(work)
        return await result_by_deadline(work, lambda raised: self._requeue(work, raised))

    def _measure(self) -> tuple[BucketTimes, float]:
        """See :meth:`StepEngine._measure`."""
        seconds = measure(self._runner.buckets, self._seconds_of_batch)
        return BucketTimes(worthwhile(seconds, keep=MIN_ROWS)), max(seconds.values())

    @torch.inference_mode()
    def _seconds_of_batch(self, bucket: int) -> float:
        config, device = self._runner.info.config, self._runner.device
        ids = torch.full((bucket, config.length), config.mask_id, device=device)
        begin = time.perf_counter()
        self._runner.logits(ids, [config.null_class] * bucket)
        self._runner.synchronize()
        return time.perf_counter() - begin
