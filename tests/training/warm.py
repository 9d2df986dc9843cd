"""Forks processes that train, for tests: importing what a run needs takes longer than these runs.

A program that reads requests, a JSON line each, and answers with a line. It ends with its input.

- ``{"start": {"environment", "configs", "modules", "log", "fatal"}}``: the new process's id. It
  runs the configs one after the other, going on where their folders are, and is killed instead of
  the operation on files numbered ``fatal``, if that is not null.
- ``{"poll": pid}``: the process's exit status, negative for a signal; null while it runs.
"""

import importlib
import io
import json
import os
import sys
from typing import Any

import torch.distributed as dist
from rich.console import Console

from flowmo.training.config import AnyTrainConfig, TrainConfig
from flowmo.training.libraries import library
from flowmo.training.loop.trainer import train
from tests.training.fatal import arm


def work(job: dict[str, Any]) -> None:
    """The life of one process."""
    os.environ.clear()
    os.environ.update(job["environment"])
    for module in job["modules"]:
        importlib.import_module(module)
    configs: list[AnyTrainConfig] = [TrainConfig.from_dict(data) for data in job["configs"]]
    if job["fatal"] is not None:
        arm(job["fatal"])
    if len(configs) > 1:
        dist.init_process_group("gloo")
    for config in configs:
        result = train(config, resume=True, console=Console(file=io.StringIO()))
        sys.stdout.write(f"{result.stopped} {result.step}\n")
        sys.stdout.flush()
    if len(configs) > 1:
        dist.destroy_process_group()


def start(job: dict[str, Any]) -> int:
    """Fork a process, whose output goes to a file."""
    pid = os.fork()
    if pid:
        return pid
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor, replacement in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(replacement, descriptor)
    work(job)
    sys.exit()


def main() -> None:
    """Answer requests until there are no more."""
    library("torchmetrics.functional.image")  # for validation, once for all
    for line in sys.stdin:
        request = json.loads(line)
        answer: int | None
        if "start" in request:
            answer = start(request["start"])
        else:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
