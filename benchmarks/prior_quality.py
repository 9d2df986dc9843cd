"""How many bits of the ids a prior predicts, and what its pictures look like.

    python -m benchmarks.prior_quality runs/prior-tiny/best --tokenizer checkpoints/tiny \
        --train data/prior/tokens --held-out data/prior/tokens-held-out \
        --out benchmarks/results/prior-tiny

writes prior.json, generated.png and completed.png. Bits are of held-out ids: cross-entropy by the
share of ids that is masked, over all rows of --held-out (mirror images left out), with the class
and without, and of some rows that were trained on. Beside them are models without context that are
counted on --train: one distribution for all ids, one for each of the D/G slots of a token, one for
each of the N places (half an occurrence added to each id). generated.png has a row a class, in the
classes' order, by the prior's own sampler; completed.png held-out pictures as the tokenizer gives
them back, and below three pictures of each from half of its tokens, each time other ones.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.environment import environment
from flowmo.model import registry
from flowmo.model.inference import InferenceModel
from flowmo.model.loading import load_inference_model
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.config import PriorConfig
from flowmo.training.data.tokens.dataset import TokenDataset, TokenRows
from flowmo.training.json_report import write_json
from flowmo.training.prior_pictures import decode_ids, draw_pictures
from flowmo.training.tasks.prior_validation import MASK_RATES, PriorValidator

_ADDED = 0.5
_SEEN = 96
_GENERATED = 4  # a class
_COMPLETED, _COMPLETIONS = 6, 3
_PAD = 4


def unigram_bits(
    train_RN: NDArray[np.int64], held_RN: NDArray[np.int64], groups_N: NDArray[np.int64], count: int
) -> dict[str, float]:
    """Entropy of counted distributions, and the cross-entropy of held-out ids under them.

    Args:
        train_RN: The ids that are counted.
        held_RN: The others.
        groups_N: Which distribution each place has.
        count: The number of different ids.

    Returns:
        ``entropy`` and ``held_out``, in bits an id.
    """
    counts = np.full((int(groups_N.max()) + 1, count), _ADDED)
    np.add.at(counts, (np.broadcast_to(groups_N, train_RN.shape), train_RN), 1.0)
    p = counts / counts.sum(1, keepdims=True)
    return {
        "entropy": float(-(p * np.log2(p)).sum(1)[groups_N].mean()),
        "held_out": float(-np.log2(p[np.broadcast_to(groups_N, held_RN.shape), held_RN]).mean()),
    }


def baselines(train: Tensor, held: Tensor, config: PriorConfig) -> dict[str, dict[str, float]]:
    """Models without context: by all ids, by slot, by place."""
    places = np.arange(config.length)
    groups = {"all": 0 * places, "slot": places % config.ids_per_token, "place": places}
    return {
        name: unigram_bits(train.numpy(), held.numpy(), each, config.vocabulary)
        for name, each in groups.items()
    }


def _rows(folder: Path, config: PriorConfig, *, mirrored: bool = False) -> TokenRows:
    dataset = TokenDataset.open([str(folder)]).judging(config)
    step = 1 if mirrored else dataset.times
    return dataset.rows(range(0, dataset.images * dataset.times, step))


def _grid(rows: list[list[Tensor]], out: Path) -> None:
    """Rows of pictures uint8 [3, S, S] with white between."""
    side = rows[0][0].shape[-1] + _PAD
    width = max(len(row) for row in rows)
    sheet = np.full((len(rows) * side - _PAD, width * side - _PAD, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, one in enumerate(row):
            pixels = one.permute(1, 2, 0).numpy()
            sheet[y * side : y * side + len(pixels), x * side : x * side + len(pixels)] = pixels
    Image.fromarray(sheet).save(out, optimize=True)


def generated(prior: Prior, decoder: InferenceModel, out: Path) -> None:
    """A row of pictures of each class."""
    classes = range(max(prior.config.classes, 1))
    rows = []
    for one in classes:
        seeds = range(_GENERATED * one, _GENERATED * (one + 1))
        rows.append(list(draw_pictures(prior, decoder, [one] * _GENERATED, seeds=seeds)))
    _grid(rows, out)


def completed(prior: Prior, decoder: InferenceModel, rows: TokenRows, out: Path) -> None:
    """Reconstructions of held-out pictures, and three of each from half of its tokens.

    Whole tokens are kept, not ids: half of the K tokens, chosen at random.
    """
    config = prior.config
    chosen = np.linspace(0, len(rows.ids) - 1, _COMPLETED).round().astype(int).tolist()
    ids, labels = rows.ids[chosen], rows.labels[chosen]
    classes = torch.where(labels < 0, config.null_class, labels).tolist()
    lines = [list(decode_ids(decoder, ids, range(len(ids))))]
    for turn in range(_COMPLETIONS):
        generator = torch.Generator().manual_seed(turn)
        scores = torch.rand(len(ids), config.code_length, generator=generator)
        keep = scores.argsort(1).argsort(1) < config.code_length // 2
        seeds = range(100 * turn, 100 * turn + len(ids))
        keep_ids = keep.repeat_interleave(config.ids_per_token, 1)
        drawn = draw_pictures(prior, decoder, classes, seeds=seeds, known=ids, keep=keep_ids)
        lines.append(list(drawn))
    _grid(lines, out)


def measure(prior: Prior, train: TokenRows, counted: TokenRows, held: TokenRows) -> dict[str, Any]:
    """The figures of prior.json, bits an id; ``counted`` are ``train`` and the mirror images."""
    found = PriorValidator(held, device=torch.device("cpu")).measure(prior)
    # What it knows better of rows that it has seen is learned by heart.
    places = np.linspace(0, len(train.ids) - 1, _SEEN).round().astype(int).tolist()
    seen = TokenRows(train.ids[places], train.labels[places])
    of_seen = PriorValidator(seen, device=torch.device("cpu")).measure(prior)
    unknown = TokenRows(held.ids, torch.full_like(held.labels, -1))
    without = PriorValidator(unknown, device=torch.device("cpu")).measure(prior)
    by_rate = {}
    for rate in MASK_RATES:
        key = round(100 * rate)
        by_rate[f"{key} %"] = {
            "bits": found[f"cross_entropy_at_{key}"] / math.log(2),
            "accuracy": found[f"accuracy_at_{key}"],
            "bits_without_class": without[f"cross_entropy_at_{key}"] / math.log(2),
            "bits_of_training_rows": of_seen[f"cross_entropy_at_{key}"] / math.log(2),
        }
    return {
        "held_out_rows": len(held.ids),
        "train_rows": len(counted.ids),
        "id_bits": prior.config.group_bits,
        "bits": found["cross_entropy"] / math.log(2),
        "accuracy": found["accuracy"],
        "by_masked_share": by_rate,
        "without_context": baselines(counted.ids, held.ids, prior.config),
    }


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prior_quality", description=__doc__)
    parser.add_argument("prior")
    parser.add_argument("--tokenizer", default="tiny")
    parser.add_argument("--train", type=Path, required=True, help="tokens that it was trained on")
    parser.add_argument("--held-out", type=Path, required=True, help="tokens that it was not")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    options = parser.parse_args()
    prior = registry.load(options.prior, expected=Prior, dtype=torch.float32)
    decoder = load_inference_model(options.tokenizer, device="cpu", halves=("decoder",))
    prior.config.check_tokenizer(decoder.fingerprint)
    train, held = (_rows(one, prior.config) for one in (options.train, options.held_out))
    counted = _rows(options.train, prior.config, mirrored=True)
    options.out.mkdir(parents=True, exist_ok=True)
    # As training validates; the pictures, too, since float32 takes three times as long.
    with torch.autocast("cpu", torch.bfloat16):
        _write(prior, decoder, (train, counted, held), options.out)


def _write(
    prior: Prior,
    decoder: InferenceModel,
    rows: tuple[TokenRows, TokenRows, TokenRows],
    out: Path,
) -> None:
    report = {
        "prior": {"fingerprint": prior.fingerprint(), **prior.config.to_dict()},
        "parameters": sum(one.numel() for one in prior.parameters()),
        **measure(prior, *rows),
        "environment": environment(),
    }
    write_json(out / "prior.json", report)
    generated(prior, decoder, out / "generated.png")
    completed(prior, decoder, rows[2], out / "completed.png")


if __name__ == "__main__":
    main()
