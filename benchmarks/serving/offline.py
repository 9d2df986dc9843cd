"""The same model without a service: throughput of the sampler, and single pictures as files.

Run as a process of its own (:class:`benchmarks.serving.offline_process.OfflineProcess`). It reads a
line of JSON for each measurement and writes one:

    {"batch": 8, "seconds": 5.0}   evaluations of the network a second, default sampler
    {"pictures": 1}                seconds of tokens to PNG bytes, one step, batch 1, one by one
"""

import argparse
import io
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.model.sampler import count_forwards
from flowmo.model.tokens import Tokens
from flowmo.training.data.held_out import centred_square, held_out_photographs

# The service's own, so that both write the same file.
PNG_LEVEL = 4


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
        levels = ((image[0] + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
        pixels = levels.permute(1, 2, 0).contiguous().cpu().numpy()
        Image.fromarray(pixels).save(io.BytesIO(), "PNG", compress_level=PNG_LEVEL)
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
    squares = [centred_square(image, side) for image in held_out_photographs().values()]
    images = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 127.5 - 1
    tokens = model.tokenize(images)
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
