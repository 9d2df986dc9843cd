"""Stage 1B and distillation on a model that really learned: they improve what they are for."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flowmo.imaging.tensors import psnr_of_images
from flowmo.model.config import FlowMoConfig, SamplerConfig
from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.model.network import with_mask
from flowmo.model.quantizer import signs
from flowmo.model.sampler import noise
from flowmo.training.checkpointing.checkpoint import load_checkpoint
from flowmo.training.config import LossWeights, PerceptualConfig, TrainConfig, ValidationConfig
from flowmo.training.data.pictures import held_out_pictures
from flowmo.training.loop.generators import Generators
from flowmo.training.perceptual.losses import LpipsLoss
from flowmo.training.recipes import recipe
from flowmo.training.tasks.flow import GENERATORS, draw
from flowmo.training.tasks.post_train import stage_1b
from flowmo.training.tasks.pretrain import stage_1a
from flowmo.training.tasks.registry import start_from
from flowmo.training.tasks.teacher import Teacher, teacher_sampler
from tests.training.students import later_stage, pupil_config, quiet

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def taught(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The config of a finished stage 1A run; its checkpoint is in ``export``."""
    config = pupil_config(pictures, tmp_path_factory.mktemp("taught"))
    result = quiet(config)
    assert result.best_score is not None
    # Ten pictures through 288 bits each. 8 dB is what the mean colour of each would give; from 12.7
    # to 17 dB is what so short a run reaches, by its seed and the last bit of its pictures.
    assert result.best_score > 12.0
    return config


def _checkpoint(config: TrainConfig, name: str = "export") -> Path:
    return Path(config.output) / name


def _images(config: TrainConfig) -> Tensor:
    crops = held_out_pictures(config.data.paths, config.model.image_size, limit=10)
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _fresh(config: TrainConfig) -> tuple[FlowMo, Tensor, TrainConfig]:
    changed = replace(config, losses=LossWeights())
    model = FlowMo.from_pretrained(_checkpoint(config)).float().train()
    return model, _images(config)[:4], replace(changed, batch_size=4)


def test_post_training_improves_the_sampled_reconstruction(
    taught: TrainConfig, tmp_path: Path
) -> None:
    validation = replace(taught.validation, interval=10)
    config = later_stage(
        taught,
        _checkpoint(taught),
        task="post-train",
        post_train=replace(taught.post_train, steps=4),
        losses=LossWeights(sample_mse=1.0, sample_perceptual=0.01),
        perceptual=PerceptualConfig(network="lpips-vgg", weights="random"),
        validation=validation,
        output=str(tmp_path / "run"),
        steps=20,
        log_interval=5,
    )
    before = quiet(replace(taught, steps=400), resume=True)
    result = quiet(config)
    assert before.best_score is not None
    assert result.best_score is not None
    assert result.best_score > before.best_score + 1.0  # dB
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    distances = [line["sample_perceptual"] for line in lines if "sample_perceptual" in line]
    assert distances[-1] < distances[0]
    # The encoder, and with it the meaning of tokens, stays.
    ours, theirs = (FlowMo.from_pretrained(p).encoder for p in (result.export, _checkpoint(taught)))
    assert all(torch.equal(p, theirs.get_parameter(name)) for name, p in ours.named_parameters())


def test_stage_1b_is_the_flow_loss_and_the_samples_distance(taught: TrainConfig) -> None:
    model, images, config = _fresh(taught)
    weights = LossWeights(sample_mse=0.5, sample_perceptual=0.25)
    generators = Generators.seeded(0, CPU, GENERATORS)
    draws = draw(config, generators, chain_steps=config.post_train.steps)
    model.encoder.requires_grad_(False)
    network = LpipsLoss("random")
    objective = stage_1b(model, images, draws, weights, network)
    terms = {term.name: term for term in objective.terms}
    # A frozen encoder has no use for the quantizer's terms.
    assert list(terms) == ["flow", "sample_perceptual", "sample_mse"]
    assert draws.start is not None
    assert draws.spacing is not None
    tails = draws.spacing.flip(1).cumsum(1).flip(1)
    times = torch.cat([tails / tails[:, :1], torch.zeros(4, 1)], 1)
    x, condition = draws.start, with_mask(signs(model.encode(images)))
    for i in range(config.post_train.steps):
        t, t_next = times[:, i], times[:, i + 1]
        x = x - (t - t_next)[:, None, None, None] * model.velocity(x, t, condition)
    assert terms["sample_mse"].value.item() == pytest.approx(
        (x - images).square().mean().item(), rel=1e-3
    )
    assert terms["sample_perceptual"].value.item() == pytest.approx(
        network(x, images).item(), rel=1e-3
    )
    model.encoder.requires_grad_(True)
    names = [term.name for term in stage_1b(model, images, draws, weights).terms]
    assert names == ["flow", "entropy", "commitment", "sample_mse"]


def test_stage_1b_compares_a_window_where_one_is_asked_for(taught: TrainConfig) -> None:
    model, images, config = _fresh(taught)
    config = replace(config, perceptual=PerceptualConfig(network="vgg-edge", window=16))
    draws = draw(config, Generators.seeded(0, CPU, GENERATORS), chain_steps=2)
    draws = draws._replace(place=torch.tensor([[0.9, 0.0]] * len(images)))
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(a: Tensor, b: Tensor) -> Tensor:
        seen.append((a, b))
        return (a - b).abs().mean()

    stage_1b(model, images, draws, LossWeights(), spy, side=16)
    ((sample, image),) = seen
    assert torch.equal(image, images[..., 16:, :16])
    assert sample.shape == image.shape
    assert sample.requires_grad


def test_stage_1a_compares_the_one_step_estimate(taught: TrainConfig) -> None:
    model, images, config = _fresh(taught)
    draws = draw(config, Generators.seeded(0, CPU, GENERATORS))
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(a: Tensor, b: Tensor) -> Tensor:
        seen.append((a, b))
        return (a - b).abs().mean()

    objective = stage_1a(model, images, draws, LossWeights(perceptual=0.5), spy)
    assert [term.name for term in objective.terms] == [
        "flow",
        "entropy",
        "commitment",
        "perceptual",
    ]
    t = draws.t[:, None, None, None]
    x_t = (1 - t) * images + t * draws.noise
    condition = with_mask(signs(model.encode(images))) * draws.keep[:, None, None]
    expected = x_t - t * model.velocity(x_t, draws.t, condition)
    torch.testing.assert_close(seen[0][0], expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(seen[0][1], images)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_student_of_few_steps_comes_nearer_to_its_teacher(
    taught: TrainConfig, tmp_path: Path, steps: int
) -> None:
    student_sampler = SamplerConfig(steps=steps, guidance=1.0)
    config = later_stage(
        taught,
        _checkpoint(taught),
        task="distill",
        model=replace(taught.model, sampler=student_sampler),
        distill=replace(taught.distill, teacher_steps=12, cache=str(tmp_path / "cache")),
        losses=LossWeights(flow=0.2, teacher_l1=1.0, sample_mse=0.1),
        validation=replace(taught.validation, interval=20),
        output=str(tmp_path / "run"),
        steps=40,
    )
    result = quiet(config)
    teacher, student = (
        InferenceModel(FlowMo.from_pretrained(p)) for p in (_checkpoint(taught), result.export)
    )
    # Its own sampler is what it decodes with when nobody says otherwise.
    assert student.config.sampler == student_sampler
    images = _images(taught)
    tokens, seeds = teacher.tokenize(images), range(100, 110)
    assert [a.ids.tolist() for a in student.tokenize(images)] == [t.ids.tolist() for t in tokens]
    sampler = replace(taught.model.sampler, steps=12)
    target = teacher.detokenize(tokens, seeds=seeds, sampler=sampler)
    untuned = teacher.detokenize(tokens, seeds=seeds, sampler=student_sampler)
    learned = student.detokenize(tokens, seeds=seeds)
    before, after = (fmean(psnr_of_images(target, came)) for came in (untuned, learned))
    assert after > before + 0.5  # dB


def _teacher(config: TrainConfig, **changes: object) -> Teacher:
    changed = later_stage(
        config,
        _checkpoint(config),
        task="distill",
        model=replace(config.model, sampler=SamplerConfig(steps=2, guidance=1.0)),
        distill=replace(config.distill, teacher_steps=5, **changes),  # type: ignore[arg-type]
    )
    return Teacher(changed, CPU, images=10)


def test_targets_are_the_teachers_guided_samples_from_the_positions_noise(
    taught: TrainConfig,
) -> None:
    teacher = _teacher(taught, teacher_guidance=1.7)
    model, images, _ = _fresh(taught)
    positions = torch.tensor([3, 4, 25, 3])
    start, target = teacher.targets(model, images, positions)
    assert torch.equal(start[0], start[3])
    assert not torch.equal(start[0], start[1])
    assert torch.equal(start[2], noise([25], (3, 32, 32))[0])
    sampler = replace(taught.model.sampler, steps=5, guidance=1.7)
    expected = model.decode(signs(model.encode(images)), start=start, sampler=sampler)
    torch.testing.assert_close(target, expected, atol=1e-4, rtol=1e-4)
    assert not torch.is_inference(target)  # or no gradient could pass beside it


def test_the_cache_answers_what_it_has_seen(
    taught: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = _teacher(taught)
    model, images, _ = _fresh(taught)
    first = _teacher(taught, cache=str(tmp_path), cache_epochs=2)
    assert first.period == 20
    positions = torch.tensor([18, 19, 20, 21])  # two before the repetition, two after
    start, target = first.targets(model, images, positions)
    expected_start, expected = plain.targets(model, images, torch.tensor([18, 19, 0, 1]))
    assert torch.equal(start, expected_start)
    assert (target - expected).abs().max() <= 1 / 255 + 1e-6
    again = _teacher(taught, cache=str(tmp_path), cache_epochs=2)
    sampled: list[int] = []
    real = again._sample

    def counted(latents: Tensor, start: Tensor) -> Tensor:
        sampled.append(len(latents))
        return real(latents, start)

    monkeypatch.setattr(again, "_sample", counted)
    assert torch.equal(again.targets(model, images, torch.tensor([38, 39, 40, 41]))[1], target)
    assert sampled == []
    again.targets(model, images, torch.tensor([0, 1, 2, 3]))
    assert sampled == [2]


def test_another_distillations_cache_is_refused(taught: TrainConfig, tmp_path: Path) -> None:
    _teacher(taught, cache=str(tmp_path))
    with pytest.raises(ConfigError, match="samples of another distillation; different are sampler"):
        _teacher(taught, cache=str(tmp_path), teacher_guidance=3.0)
    with pytest.raises(ConfigError, match="different are slots"):
        _teacher(taught, cache=str(tmp_path), cache_epochs=3)


def test_a_student_with_other_tokens_than_its_teacher_is_refused(
    taught: TrainConfig, tmp_path: Path
) -> None:
    other = FlowMo.from_pretrained(_checkpoint(taught)).float()
    with torch.no_grad():
        other.encoder.final_layer_txt.linear.bias.add_(0.5)
    other.save_pretrained(tmp_path / "other", dtype=torch.float32)
    config = later_stage(
        taught,
        tmp_path / "other",
        task="distill",
        distill=replace(taught.distill, teacher=str(_checkpoint(taught))),
        model=replace(taught.model, sampler=SamplerConfig(steps=1, guidance=1.0)),
        output=str(tmp_path / "run"),
    )
    with pytest.raises(ConfigError, match="encoder is not the teacher's"):
        quiet(config)


def test_a_distillation_resumes_bitwise(taught: TrainConfig, tmp_path: Path) -> None:
    def config(name: str, steps: int) -> TrainConfig:
        return later_stage(
            taught,
            _checkpoint(taught),
            task="distill",
            model=replace(taught.model, sampler=SamplerConfig(steps=1, guidance=1.0)),
            distill=replace(taught.distill, teacher_steps=2),
            validation=replace(taught.validation, interval=1, count=2),
            output=str(tmp_path / name),
            batch_size=2,
            accumulation=2,
            steps=steps,
        )

    straight = quiet(config("straight", 4))
    quiet(config("parts", 2))
    resumed = quiet(config("parts", 4), resume=True)
    a, b = (load_checkpoint(result.checkpoint).tensors() for result in (straight, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert straight.best_score == resumed.best_score


def test_training_stops_when_held_out_pictures_get_no_better(
    taught: TrainConfig, tmp_path: Path
) -> None:
    """A rate of 0 cannot improve anything: the weights that it began with stay the best."""
    config = replace(
        later_stage(
            taught,
            _checkpoint(taught),
            task="post-train",
            post_train=replace(taught.post_train, steps=1),
            output=str(tmp_path / "run"),
            steps=50,
            batch_size=2,
        ),
        optimizer=replace(taught.optimizer, learning_rate=1e-12),
        validation=ValidationConfig(
            interval=2,
            paths=taught.data.paths,
            count=2,
            patience=3,
            metric="efficientnet-lite0",
            network_weights="random",
        ),
    )
    first = quiet(replace(config, steps=5))
    assert (first.stopped, first.step) == ("finished", 5)
    result = quiet(config, resume=True)  # the count goes on over a stop
    assert (result.stopped, result.step) == ("early", 6)
    assert result.best is not None
    record = json.loads((result.checkpoint / "state.json").read_text())["progress"]
    assert (record["best_step"], record["worse_in_a_row"]) == (0, 3)
    assert FlowMo.from_pretrained(result.best).config == taught.model


def test_a_guided_checkpoint_is_what_the_recipe_distills(
    micro_model: FlowMoConfig, tmp_path: Path
) -> None:
    assert micro_model.sampler.guidance > 1  # as all published ones are
    FlowMo(micro_model).save_pretrained(tmp_path)
    config = start_from(recipe("distill"), str(tmp_path))
    assert config.model.sampler == recipe("distill").model.sampler
    assert config.model.decoder == micro_model.decoder


def test_the_best_is_never_worse_than_what_a_run_begins_with(
    taught: TrainConfig, tmp_path: Path
) -> None:
    """A rate that spoils the weights at once: what was begun with is what is kept, in float32."""
    config = later_stage(
        taught,
        _checkpoint(taught),
        task="post-train",
        post_train=replace(taught.post_train, steps=1),
        output=str(tmp_path / "run"),
        steps=2,
        batch_size=2,
        ema_decay=0.5,
        export_precision="float32",
    )
    config = replace(
        config,
        optimizer=replace(taught.optimizer, learning_rate=0.3, grad_clip=None),
        validation=replace(taught.validation, interval=1),
    )
    result = quiet(config)
    first, *later = [
        json.loads(line)
        for line in (tmp_path / "run/log.jsonl").read_text().splitlines()
        if "validation_psnr" in line
    ]
    assert first["step"] == 0
    assert result.best_score == pytest.approx(first["validation_psnr"], rel=1e-5)
    assert all(line["validation_psnr"] < first["validation_psnr"] for line in later)
    assert result.best is not None
    kept, begun = (FlowMo.from_pretrained(p) for p in (result.best, _checkpoint(taught)))
    assert {p.dtype for p in kept.parameters()} == {torch.float32}
    assert all(torch.equal(p, kept.get_parameter(n)) for n, p in begun.float().named_parameters())


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        ({"paths": ()}, "validation images that are not trained on, and none are named"),
        ({"metric": "psnr"}, "got validation.metric='psnr': PSNR and SSIM do not see"),
        ({"metric": "lpips"}, "'lpips' is the network that is trained against"),
        ({"metric": "rfid"}, "rfid needs 2,049 images or more"),
    ],
)
def test_early_stopping_needs_what_can_tell_when(
    taught: TrainConfig, tmp_path: Path, held_out: dict[str, Any], message: str
) -> None:
    values: dict[str, Any] = {"paths": ("pictures/",), "metric": "vgg-edge", **held_out}
    config = later_stage(
        taught,
        _checkpoint(taught),
        task="post-train",
        perceptual=PerceptualConfig(network="lpips-vgg", weights="random"),
        validation=ValidationConfig(interval=1, patience=2, **values),
        output=str(tmp_path / "run"),
    )
    with pytest.raises(ConfigError, match=message):
        quiet(config)
    assert not (tmp_path / "run").exists()  # said before anything was read or written


def test_the_best_weights_are_kept_when_later_ones_are_worse(
    taught: TrainConfig, tmp_path: Path
) -> None:
    config = later_stage(
        taught,
        _checkpoint(taught),
        task="pretrain",
        encoder_freeze_step=None,
        optimizer=replace(taught.optimizer, learning_rate=0.3, grad_clip=None),
        validation=replace(taught.validation, interval=3),
        ema_decay=0.9,
        output=str(tmp_path / "run"),
        steps=9,
    )
    gentle = replace(config, optimizer=replace(config.optimizer, learning_rate=1e-5), steps=3)
    best = quiet(gentle).best_score
    result = quiet(config, resume=True)
    assert result.best_score == best
    model = FlowMo.from_pretrained(_checkpoint(config, "best")).float()
    images = _images(taught)
    last = FlowMo.from_pretrained(result.export).float()
    kept, spoilt = (psnr_of_images(images, one.reconstruct(images)) for one in (model, last))
    assert fmean(kept) > 2 + fmean(spoilt)


def test_a_teachers_sampler_can_be_changed_in_part() -> None:
    from flowmo.training.config import DistillConfig

    own = SamplerConfig(schedule="explicit", times=(1.0, 0.5, 0.0), guidance=2.0)
    assert teacher_sampler(own, DistillConfig()) == own
    changed = teacher_sampler(own, DistillConfig(teacher_steps=6, teacher_guidance=1.0))
    assert (changed.schedule, changed.steps, changed.guidance) == ("power", 6, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "post-train"}, "trains on from a checkpoint: set init"),
        ({"task": "distill", "init": "x", "encoder_freeze_step": None}, "encoder must stay"),
        ({"task": "distill", "init": "x", "encoder_freeze_step": 0}, "sampler.guidance=1"),
        ({"task": "2"}, "task must be one of"),
    ],
)
def test_stages_that_cannot_be_are_explained(
    taught: TrainConfig, changes: dict[str, object], message: str
) -> None:
    guided = replace(taught.model, sampler=SamplerConfig())
    with pytest.raises(ConfigError, match=message):
        replace(taught, model=guided, **changes)  # type: ignore[arg-type]


def test_beginning_with_a_checkpoint_of_other_sizes_is_refused(
    taught: TrainConfig, tmp_path: Path
) -> None:
    larger = replace(taught.model, code_length=25)
    with pytest.raises(ConfigError, match="other sizes"):
        quiet(
            replace(
                taught,
                init=str(_checkpoint(taught)),
                model=replace(larger, token_bits=9),
                output=str(tmp_path),
            )
        )
