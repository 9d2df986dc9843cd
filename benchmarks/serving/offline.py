"""The same model without a service: throughput of the sampler, and single pictures as files.

Run as a process of its own (:class:`benchmarks.serving.offline_process.OfflineProcess`). It reads a
line of JSON for each measurement and writes one:

    {"batch": 8, "seconds": 5.0}   evaluations of the network a second, default sampler
    {"pictures": 1}                seconds of tokens to PNG bytes, one step, batch 1, one by one
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from flowmo.imaging.tensors import to_images, to_pixels
from flowmo.imaging.writing import encode_image
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.model.sampler import count_forwards
from flowmo.model.tokens import Tokens
from flowmo.training.data.held_out import held_out_squares


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
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = InferenceModel(FlowMo.from_pretrained(options.checkpoint), device=device)
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
