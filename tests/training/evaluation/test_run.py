"""Evaluations in parts: the same report however the work is cut, stopped or shared."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flowmo.imaging.quality import IDENTICAL_PSNR, psnr
from flowmo.imaging.reading import ImageError, Pixels
from flowmo.imaging.tensors import as_levels
from flowmo.model.inference import InferenceModel
from flowmo.training.evaluation import (
    NO_NETWORKS,
    Came,
    CheckpointMethod,
    Evaluation,
    EvaluationError,
    MeanColour,
    Networks,
    NetworkSources,
    PictureList,
    Plan,
    Ranks,
    evaluate,
    merge,
)
from flowmo.training.evaluation.protocol import INCEPTION
from flowmo.training.evaluation.reading import read_ahead
from flowmo.training.evaluation.report import ORIGINALS
from flowmo.training.evaluation.store import Store
from flowmo.training.perceptual.ssim import Ssim

ROOT = Path(__file__).resolve().parents[3]
Build = Callable[..., Evaluation]


def figures(report: dict[str, Any] | None) -> dict[str, Any]:
    assert report is not None
    return {key: value for key, value in report.items() if key != "environment"}


def test_figures_are_those_of_the_pictures(evaluation: Build, tmp_path: Path) -> None:
    report = evaluate(evaluation(methods=[MeanColour()]), tmp_path)
    assert report is not None
    list_ = evaluation().pictures
    squares = [list_.square(number) for number in range(len(list_))]
    flat = [np.broadcast_to(s.mean((0, 1)).round().astype(np.uint8), s.shape) for s in squares]
    found = report["methods"]["mean-colour"]
    expected = np.mean([psnr(a, b) for a, b in zip(squares, flat, strict=True)])
    assert found["psnr"] == pytest.approx(expected)
    similarities = Ssim()(as_levels(squares), as_levels(flat))
    assert similarities is not None
    assert found["ssim"] == pytest.approx(np.mean(similarities))
    assert (found["bytes"], found["pictures"], found["without_result"]) == (3, 10, 0)
    assert (found["lpips"], found["rfid"], found["precision"]) == (None, None, None)
    assert found["worst"][0]["psnr"] <= found["psnr"] <= found["best"][0]["psnr"]


def test_a_picture_that_comes_back_exactly() -> None:
    picture = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    assert psnr(picture, picture, identical=IDENTICAL_PSNR) == 120.0
    assert Ssim()(as_levels([picture]), as_levels([picture])) == pytest.approx([1.0])
    grey = np.full((32, 32, 3), 100, np.uint8)
    assert psnr(grey, grey + 10) == pytest.approx(28.1308, abs=1e-3)


def test_shards_and_processes_change_nothing(
    evaluation: Build, micro: InferenceModel, tmp_path: Path
) -> None:
    # Real features, whose last digits would show a batch that was cut otherwise.
    networks = Networks(NetworkSources(lpips="random", inception="random", vgg16="none"))
    build = {"methods": [CheckpointMethod(micro)], "networks": networks, "limit": 5}
    one = evaluate(evaluation(plan=Plan(batch=2, shard=10, shown=2), **build), tmp_path / "one")
    plan = Plan(batch=2, shard=2, shown=2)
    second = evaluate(
        evaluation(plan=plan, **build), tmp_path / "two", ranks=Ranks(rank=1, world=2)
    )
    assert second is None
    assert len(list((tmp_path / "two" / "shards").iterdir())) == 2  # shard 1 of 0, 1, 2
    two = evaluate(evaluation(plan=plan, **build), tmp_path / "two", ranks=Ranks(rank=0, world=2))
    assert figures(one) == figures(two)
    found = figures(one)["methods"]["flowmo"]
    assert found["rfid"] > 0
    assert found["lpips"] > 0
    shards = [Store(tmp_path / "two").read(ORIGINALS, shard) for shard in range(3)]
    whole = Store(tmp_path / "one").read(ORIGINALS, 0)
    parts = torch.cat([shard.features[INCEPTION] for shard in shards])
    assert torch.equal(parts, whole.features[INCEPTION])
    assert any("mean nothing" in caveat for caveat in figures(one)["caveats"])
    assert any("rests on 5 pictures" in caveat for caveat in figures(one)["caveats"])


KILLED = """
import os, signal
from pathlib import Path
import numpy as np

HERE = Path(__file__).parent

def half(pictures, numbers):
    with (HERE / "log").open("a") as log:
        log.write(f"{numbers}\\n")
    if numbers[0] == 4 and not (HERE / "again").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return pictures // 2, [1] * len(numbers)
"""


def command(out: Path, pictures: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "flowmo", "evaluate", "--size=32", f"--data={pictures}"),
        *("--inception=none", "--vgg=none", "--lpips=none", "--batch=2", "--shard=2"),
        *("--against=killed:half", "--against=mean-colour", f"--out={out}", *more),
    ]


def test_a_killed_evaluation_goes_on_where_it_was(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])
    }
    run = command(tmp_path / "out", pictures)
    options: dict[str, Any] = {"cwd": tmp_path, "env": environment, "capture_output": True}
    first = subprocess.run(run, check=False, **options)
    assert first.returncode == -9
    assert len(list((tmp_path / "out" / "shards").glob("killed-half.*"))) == 2
    assert not (tmp_path / "out" / "report.json").exists()
    (tmp_path / "again").touch()
    subprocess.run(run, check=True, **options)
    # Two shards before the kill, the third twice because it was not finished, then the rest.
    log = (tmp_path / "log").read_text().split("\n")
    assert log == ["[0, 1]", "[2, 3]", "[4, 5]", "[4, 5]", "[6, 7]", "[8, 9]", ""]
    (tmp_path / "log").unlink()
    # Two processes at once come to the same.
    processes = [
        subprocess.Popen(
            command(tmp_path / "shared", pictures),
            cwd=tmp_path,
            env=environment | {"RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sorted((tmp_path / "log").read_text().split()) == sorted(
        " ".join(log[:3] + log[4:]).split()
    )
    reports = [json.loads((tmp_path / f / "report.json").read_text()) for f in ("out", "shared")]
    assert figures(reports[0]) == figures(reports[1])


def test_another_setting_is_refused_with_what_differs(
    evaluation: Build, micro: InferenceModel, tmp_path: Path
) -> None:
    evaluate(evaluation(limit=2), tmp_path)
    reported: list[str] = []
    evaluate(evaluation(limit=2), tmp_path, on_progress=reported.append)
    assert reported == []  # the same again finds nothing to do
    other = CheckpointMethod(micro, noise_scale=0.5)
    with pytest.raises(EvaluationError, match=r"methods.flowmo.noise_scale was 1.0 and is now 0.5"):
        evaluate(evaluation(limit=2, methods=[other]), tmp_path)
    with pytest.raises(EvaluationError, match=r"plan.shard was 4 and is now 8"):
        evaluate(evaluation(limit=2, plan=Plan(batch=2, shard=8, shown=2)), tmp_path)
    with pytest.raises(EvaluationError, match=r"pictures.count was 2 and is now 3"):
        evaluate(evaluation(limit=3), tmp_path)


def test_an_unfinished_evaluation_is_not_merged(evaluation: Build, tmp_path: Path) -> None:
    evaluate(evaluation(), tmp_path, ranks=Ranks(rank=1, world=2))
    with pytest.raises(EvaluationError, match="not finished: 2 of 3 shards of 'original'"):
        merge(tmp_path)
    with pytest.raises(EvaluationError, match="is no folder of an evaluation"):
        merge(tmp_path / "nowhere")


def test_unreadable_pictures_are_left_out_and_named(evaluation: Build, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (40, 40), (len(name), 90, 20)).save(folder / f"{name}.png")
    (folder / "b.png").write_bytes(b"not a picture")
    report = evaluate(evaluation(paths=[str(folder)], methods=[MeanColour()]), tmp_path / "out")
    found = figures(report)
    assert found["methods"]["mean-colour"]["pictures"] == 2
    assert [Path(name).name for name in found["pictures"]["unreadable"]] == [f"{folder.name}:b.png"]
    assert any("1 pictures do not decode" in caveat for caveat in found["caveats"])


class Half:
    """Gives even pictures back as they are, and has nothing for the odd ones."""

    name = "half"

    def describe(self) -> dict[str, Any]:
        return {"kind": "half"}

    def reconstruct(self, originals: Sequence[Pixels], numbers: Sequence[int]) -> list[Came | None]:
        return [
            Came(pixels=original, size=None) if number % 2 == 0 else None
            for original, number in zip(originals, numbers, strict=True)
        ]


def test_pictures_without_a_result_are_told_and_compared_without(
    evaluation: Build, colour_networks: Networks, tmp_path: Path
) -> None:
    report = figures(evaluate(evaluation(methods=[Half()], networks=colour_networks), tmp_path))
    found = report["methods"]["half"]
    assert (found["pictures"], found["without_result"], found["psnr"]) == (5, 5, 120.0)
    assert found["bytes"] is None
    # Against the same five originals, not against all ten.
    assert found["rfid"] == pytest.approx(0.0, abs=1e-3)
    assert (found["precision"], found["recall"]) == (1.0, 1.0)
    assert any("half has no result for 5 pictures" in caveat for caveat in report["caveats"])


def test_a_reference_set_has_its_own_columns(
    evaluation: Build, colour_networks: Networks, pictures: Path, tmp_path: Path
) -> None:
    same, five = (PictureList([str(pictures)], 32, limit=n) for n in (None, 5))
    build = {"methods": [MeanColour()], "networks": colour_networks}
    for name, reference in (("same", same), ("five", five)):
        report = figures(evaluate(evaluation(reference=reference, **build), tmp_path / name))
        found = report["methods"]["mean-colour"]
        assert report["reference"]["count"] == len(reference)
        assert found["reference_recall"] == 1.0  # of pictures that are among the originals
        assert (found["reference_fid"] == pytest.approx(found["rfid"])) is (name == "same")


def test_plans_and_ranks_say_what_is_wrong(micro: InferenceModel, evaluation: Build) -> None:
    with pytest.raises(EvaluationError, match="shard is a multiple of batch"):
        Plan(batch=3, shard=4)
    with pytest.raises(EvaluationError, match="RANK=2, WORLD_SIZE=2"):
        Ranks.from_environment({"RANK": "2", "WORLD_SIZE": "2"})
    with pytest.raises(EvaluationError, match="must be whole numbers"):
        Ranks.from_environment({"RANK": "first"})
    assert Ranks.from_environment({}) == Ranks()
    third = Ranks.from_environment({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"})
    assert (list(third.share(9)), third.device("cuda"), third.device("cpu")) == (
        [2, 6],
        "cuda:0",
        "cpu",
    )
    with pytest.raises(EvaluationError, match="names of their own"):
        evaluation(methods=[CheckpointMethod(micro), CheckpointMethod(micro)])


def test_pictures_are_read_by_threads_ahead_of_the_work(pictures: Path) -> None:
    """The next part is being read while one is computed with, and the order stays."""
    list_ = PictureList([str(pictures)], 32)
    expected = [list_.square(number) for number in range(len(list_))]
    read: list[int] = []
    later = threading.Event()

    class Watched(PictureList):
        def square(self, number: int) -> Pixels:
            assert threading.current_thread() is not threading.main_thread()
            if number == 1:
                raise ImageError("broken")
            read.append(number)
            if number >= 4:
                later.set()
            return super().square(number)

    parts = [range(4), range(4, 8), range(8, len(expected))]
    came = read_ahead(Watched([str(pictures)], 32), parts, workers=2)
    first = next(came)
    assert later.wait(60)
    assert not any(number in read for number in parts[2])
    rest = [square for part in came for square in part]
    for number, square in enumerate([*first, *rest]):
        if number == 1:
            assert square is None
        else:
            assert square is not None
            assert np.array_equal(square, expected[number])
    with pytest.raises(EvaluationError, match="at least one worker reads pictures, got 0"):
        Evaluation(
            pictures=list_, methods=[MeanColour()], networks=Networks(NO_NETWORKS), workers=0
        )
