"""The same model without a service: throughput of the sampler, and single pictures as files.

Run as a process of its own (:class:`benchmarks.serving.offline_process.OfflineProcess`). It reads a
line of JSON for each measurement and writes one:

    {"batch": 8, "seconds": 5.0}   evaluations of the network a second, default sampler
    {"pictures": 1}                seconds of tokens to PNG bytes, one step, batch 1, one by one

It computes as the service does unless it is told otherwise: in the same dtype (bfloat16 on a GPU),
by the same runner, at the same batch sizes.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from flowmo.deploy.buckets import powers_of_two
from flowmo.deploy.runners import KINDS, Runtime, install
from flowmo.imaging.tensors import to_images, to_pixels
from flowmo.imaging.writing import encode_image
from flowmo.model.inference import InferenceModel
from flowmo.model.loading import load_inference_model
from flowmo.model.sampler import count_forwards
from flowmo.model.tokens import Tokens
from flowmo.training.data.held_out import held_out_squares

# As service.engine.sizes has it, which this process does not load.
MAX_BATCH = {"cpu": 8, "cuda": 16}


def throughput(
    model: InferenceModel, tokens: Sequence[Tokens], *, batch: int, seconds: float
) -> float:
    """Evaluations of the network a second of the default sampler, over whole batches.

    Args:
        model: on any device.
        tokens: taken in turn.
        batch: pictures decoded together.
        seconds: least time to measure; one batch before it is not counted.
    """
    chosen = [tokens[index % len(tokens)] for index in range(batch)]
    model.detokenize(chosen, seeds=range(batch))
    begin, pictures = time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < seconds or not pictures:
        # On the CPU the result is awaited, as a service must do before it can send it.
        model.detokenize(chosen, seeds=range(pictures, pictures + batch)).cpu()
        pictures += batch
    return pictures * count_forwards(model.config.sampler) / passed


def time_pictures(model: InferenceModel, tokens: Sequence[Tokens], *, pictures: int) -> list[float]:
    """Seconds of each of so many pictures, from tokens to PNG bytes: one step, batch 1."""
    sampler = replace(model.config.sampler, steps=1)
    seconds = []
    for number in range(pictures):
        begin = time.perf_counter()
        item = tokens[number % len(tokens)]
        image = model.detokenize([item], seeds=[number], sampler=sampler)
        encode_image(to_pixels(image)[0], "png")
        seconds.append(time.perf_counter() - begin)
    return seconds


def main() -> None:
    """Answer until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.offline")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--runner", choices=KINDS, default="torch")
    parser.add_argument("--dtype", default="auto", help="the service's: bfloat16 on a GPU")
    parser.add_argument("--max-batch", type=int, help="of what is compiled; the service's")
    parser.add_argument("--engine-cache", type=Path, help="where graphs and engines are made")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_inference_model(options.checkpoint, dtype=options.dtype, threads=options.threads)
    runtime = Runtime(kind=options.runner, cache=options.engine_cache, build=True)
    most = options.max_batch or MAX_BATCH[model.device.type]
    # What falls back here would be compared with what does not there: it fails instead.
    install(model, str(options.checkpoint), runtime, powers_of_two(most))
    side = model.config.image_size
    tokens = model.tokenize(to_images(list(held_out_squares(side).values())))
    for line in sys.stdin:
        wanted = json.loads(line)
        result: float | list[float]
        if "batch" in wanted:
            result = throughput(model, tokens, batch=wanted["batch"], seconds=wanted["seconds"])
        else:
            result = time_pictures(model, tokens, pictures=wanted["pictures"])
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
