"""Seams between the tiles of a picture, by how and where the tiles are blended.

    python -m benchmarks.seams [--checkpoint NAME] [--overlaps SHARE ...] [--seeds N ...]

Each held-out photograph is tokenized as it is and decoded in three ways: tiles *blended at every
step* of one sampler, as :func:`flowmo.model.pictures.decode_picture` does; each tile sampled by
itself, and *blended at the end*; and the same tiles cut hard in the middle of what they share
(*none*). All begin with the same noise. The figure is

    seam = E at borders / E expected there

where E is the mean squared difference of neighbouring pixels across a line. Borders are the edges
of tiles and the middle between them. Expected is the photograph's E at the same lines, times what
the result has of the photograph's E at lines inside tiles of the same kind: on the network's grid
of patches, where its gradients are larger anyway, or off it. 1 is no seam: above it a border shows
as a line, below it as a band smoother than the rest, because two tiles' opinions are averaged
there. So what counts is the distance from 1, on either side, which is given of all photographs and
seeds together and as the mean of each by itself. The report is
``benchmarks/results/native/seams.json``.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import flowmo
from benchmarks.environment import environment
from flowmo.imaging.quality import psnr
from flowmo.imaging.reading import Pixels, read_image
from flowmo.imaging.tensors import to_picture
from flowmo.model.config import SamplerConfig
from flowmo.model.pictures import decode_picture
from flowmo.model.quantizer import ids_to_signs
from flowmo.model.sampler import noise
from flowmo.model.tiling import Tiling
from flowmo.tokenizer import Tokenizer
from flowmo.training.data.held_out import held_out_photographs
from flowmo.training.json_report import write_json

REPORT = Path(__file__).parent / "results" / "native" / "seams.json"
OVERLAPS = (0.125, 0.1875, 0.25)
SEEDS = (0,)
TILES_AT_ONCE = 8


def border_lines(starts: tuple[int, ...], size: int, length: int) -> list[int]:
    """The lines x, between pixels x - 1 and x, where tiles begin, end, or are cut."""
    lines = set[int]()
    for start, following in itertools.pairwise(starts):
        end = start + size
        lines |= {following, end, (following + end) // 2}
    return sorted(line for line in lines if 0 < line < length)


def seam_sums(original: Pixels, made: Pixels, tiling: Tiling, patch: int) -> NDArray[np.float64]:
    """Sums of E by kind of line: [result, photograph] x [border, inside] x [off, on the grid]."""
    sums = np.zeros((2, 2, 2))
    for axis, starts in ((1, tiling.lefts), (0, tiling.tops)):
        borders = set(border_lines(starts, tiling.size, original.shape[axis]))
        energy = [
            (np.diff(pixels.astype(np.float64), axis=axis) ** 2).mean(axis=(1 - axis, 2))
            for pixels in (made, original)
        ]
        for line in range(1, original.shape[axis]):
            tiles = [start for start in starts if start <= line <= start + tiling.size]
            grid = int(any((line - start) % patch == 0 for start in tiles))
            for which in (0, 1):
                sums[which, int(line not in borders), grid] += energy[which][line - 1]
    return sums


def seam_of(sums: NDArray[np.float64]) -> float:
    """The seam of summed energies."""
    (made_border, made_inside), (true_border, true_inside) = sums
    expected = true_border * made_inside / true_inside
    return float(made_border.sum() / expected.sum())


def separate_tiles(
    tok: Tokenizer, tokens: flowmo.ImageTokens, sampler: SamplerConfig, seed: int
) -> Tensor:
    """Each tile sampled by itself from its part of the one noise field, [T, 3, S, S]."""
    tiling, model = tokens.layout.tiling, tok.model
    width, height = tiling.frame
    start = noise([seed], (3, height, width))
    made = []
    for begin in range(0, tiling.count, TILES_AT_ONCE):
        tiles = [tiling[i] for i in range(begin, min(begin + TILES_AT_ONCE, tiling.count))]
        code = ids_to_signs(torch.tensor(tokens.ids[begin : begin + len(tiles)]), tokens.group_bits)
        noises = torch.cat([start[:, :, tile.box[0], tile.box[1]] for tile in tiles])
        made.append(model.decode(code, start=noises, sampler=sampler))
    return torch.cat(made)


def joined(tiles: Tensor, tiling: Tiling, weights: Callable[[int], NDArray[np.float32]]) -> Pixels:
    """Tiles put together with weights that add up to 1."""
    width, height = tiling.frame
    frame = torch.zeros(3, height, width)
    for tile in tiling:
        rows, columns = tile.box
        frame[:, rows, columns] += tiles[tile.index] * torch.from_numpy(weights(tile.index))
    return to_picture(frame[:, : tiling.height, : tiling.width])


def hard_weights(tiling: Tiling) -> Callable[[int], NDArray[np.float32]]:
    """1 up to the middle of what a tile shares with each neighbour, 0 beyond."""

    def along(starts: tuple[int, ...], index: int) -> NDArray[np.float32]:
        window = np.ones(tiling.size, np.float32)
        here = starts[index]
        if index > 0:
            window[: (here + starts[index - 1] + tiling.size) // 2 - here] = 0
        if index + 1 < len(starts):
            window[(starts[index + 1] + here + tiling.size) // 2 - here :] = 0
        return window

    def weights(index: int) -> NDArray[np.float32]:
        row, column = divmod(index, tiling.columns)
        across, down = along(tiling.lefts, column), along(tiling.tops, row)
        return np.outer(down, across).astype(np.float32)

    return weights


def measure(
    tok: Tokenizer, overlap: float, sampler: SamplerConfig, seeds: Sequence[int]
) -> dict[str, Any]:
    """Seams, PSNR and tiles of all photographs with one overlap."""
    sums: dict[str, list[NDArray[np.float64]]] = {}
    qualities: dict[str, list[float]] = {}
    tiles = tile_bytes = 0
    patch = tok.config.patch_size
    for data in held_out_photographs().values():
        original = read_image(data).pixels
        tokens = tok.encode(data, overlap=overlap)
        tiling = tokens.layout.tiling
        tiles, tile_bytes = tiles + tokens.tile_count, tile_bytes + tokens.payload_bytes
        for seed in seeds:
            whole = decode_picture(
                tok.model,
                tokens,
                tokens.layout,
                seed=seed,
                sampler=sampler,
                tiles_at_once=TILES_AT_ONCE,
            )
            alone = separate_tiles(tok, tokens, sampler, seed)
            for name, picture in (
                ("every step", to_picture(whole)),
                ("end only", joined(alone, tiling, tiling.weights)),
                ("none", joined(alone, tiling, hard_weights(tiling))),
            ):
                sums.setdefault(name, []).append(seam_sums(original, picture, tiling, patch))
                qualities.setdefault(name, []).append(psnr(original, picture, identical=0.0))
    rows = {}
    for name, found in sums.items():
        seam, each = seam_of(np.sum(found, axis=0)), [seam_of(one) for one in found]
        rows[name] = {
            "seam": round(seam, 4),
            "from_1": round(abs(seam - 1), 4),
            "from_1_each": round(float(np.mean(np.abs(np.array(each) - 1))), 4),
            "least": round(min(each), 4),
            "most": round(max(each), 4),
            "psnr": round(float(np.mean(qualities[name])), 3),
        }
    return {"overlap": overlap, "tiles": tiles, "token_bytes": tile_bytes, "blending": rows}


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--overlaps", type=float, nargs="+", default=list(OVERLAPS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=REPORT)
    options = parser.parse_args()
    tok = flowmo.load(options.checkpoint, device="cpu")
    sampler = tok.config.sampler.changed(steps=options.steps)
    report: dict[str, Any] = {
        "command": f"python -m benchmarks.seams --overlaps {' '.join(map(str, options.overlaps))}",
        "model": {"name": tok.config.name, "fingerprint": tok.fingerprint},
        "steps": sampler.steps,
        "guidance": sampler.guidance,
        "seeds": options.seeds,
        "environment": environment(),
        "rows": [],
    }
    for overlap in options.overlaps:
        row = measure(tok, overlap, sampler, options.seeds)
        print(json.dumps(row), flush=True)
        report["rows"].append(row)
        write_json(options.out, report)  # what a stop leaves is of use


if __name__ == "__main__":
    main()
