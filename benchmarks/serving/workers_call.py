"""What a picture costs on its way between a gateway and the engine process, and what a copy does.

    python -m benchmarks.serving.workers_call

A child process answers every decode at once with the same pixels. Shared memory could save at most
what the socket costs beyond one copy of the pixels into it, and making the region.
"""

import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np

from flowmo.model.config import SamplerConfig
from flowmo.model.tokens import Tokens
from flowmo.service.engine.calls import Call, Decoded, DecodeOptions, Timings
from flowmo.service.workers import messages
from flowmo.service.workers.frames import Streams, listen

SIZES = {"256x256": (256, 256), "4000x3000": (3000, 4000)}
_TOKENS = Tokens(ids=np.zeros((256, 2), np.int32), group_bits=9)
_OPTIONS = DecodeOptions(seed=0, sampler=SamplerConfig())
_REPEATS = {"256x256": 300, "4000x3000": 20}


async def _answer(path: Path, shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 7, np.uint8)
    timings = Timings(queue=0.0, run=0.0, steps=(0.0,) * 25)
    decoded = Decoded(pixels=pixels, sampler=_OPTIONS.sampler, timings=timings)

    async def serve(streams: Streams) -> None:
        while (frame := await streams.read()) is not None:
            messages.call_from(frame.head)
            messages.tokens_of(frame)
            messages.options_of(frame)
            messages.send_decoded(streams, decoded)
            await streams.drain()

    async with await listen(path, serve) as server:
        await server.serve_forever()


def _child(path: Path, shape: tuple[int, int]) -> None:
    asyncio.run(_answer(path, shape))


async def _calls(path: Path, repeats: int, child: int) -> tuple[float, float]:
    """The median wall time of a call, and the mean processor time of both sides, in seconds."""
    while not path.exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.05)
    streams = await Streams.open(path)
    took = []
    cpu = time.process_time() + _cpu_of(child)
    for _ in range(repeats):
        begin = time.perf_counter()
        messages.send_tokens(streams, 0, _TOKENS, _OPTIONS, Call(), None)
        await streams.drain()
        frame = await streams.read()
        assert frame is not None
        messages.decoded_of(frame)
        took.append(time.perf_counter() - begin)
    cpu = time.process_time() + _cpu_of(child) - cpu
    streams.abort()
    return statistics.median(took), cpu / repeats


def _cpu_of(pid: int) -> float:
    """Seconds that the only thread of a process has run."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _shared_memory(shape: tuple[int, int], repeats: int) -> tuple[float, float]:
    """Make a region, copy pixels into it, and remove it: the least that it could cost."""
    pixels = np.full((*shape, 3), 7, np.uint8)
    took, cpu = [], time.process_time()
    for _ in range(repeats):
        begin = time.perf_counter()
        region = SharedMemory(create=True, size=pixels.nbytes)
        assert region.buf is not None
        region.buf[: pixels.nbytes] = pixels.reshape(-1).data
        region.close()
        region.unlink()
        took.append(time.perf_counter() - begin)
    return statistics.median(took), (time.process_time() - cpu) / repeats


def measure_calls() -> dict[str, Any]:
    """A call by socket beside the pixels' way through shared memory.

    Returns:
        By size, median milliseconds and those of processor time, for each of both.
    """
    context = multiprocessing.get_context("spawn")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in SIZES.items():
            path = Path(folder, name)
            child = context.Process(target=_child, args=(path, shape), daemon=True)
            child.start()
            try:
                assert child.pid is not None
                by_socket = asyncio.run(_calls(path, _REPEATS[name], child.pid))
            finally:
                child.terminate()
                child.join()
            by_memory = _shared_memory(shape, _REPEATS[name])
            found[name] = {
                "socket_ms": 1e3 * by_socket[0],
                "socket_cpu_ms": 1e3 * by_socket[1],
                "shared_memory_ms": 1e3 * by_memory[0],
                "shared_memory_cpu_ms": 1e3 * by_memory[1],
            }
    return found


if __name__ == "__main__":
    sys.stdout.write(f"{measure_calls()}\n")
