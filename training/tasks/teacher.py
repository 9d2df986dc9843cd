"""The teacher of a distillation: guided samples of many steps, made once and kept if asked to."""

from dataclasses import replace

import torch
from torch import Tensor

from flowmo.model import registry
from flowmo.model.config import SamplerConfig
from flowmo.model.errors import ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from flowmo.model.quantizer import GaussianPosterior, signs
from flowmo.model.sampler import noise
from flowmo.training.config import DistillConfig, TrainConfig
from flowmo.training.loop.sharding import is_sharded, whole
from flowmo.training.tasks.teacher_cache import TeacherCache

# Seeds of a run's positions; further runs differ in the bits above.
_POSITION_BITS = 40


@torch.no_grad()
def fixed_latent(model: FlowMo, images: Tensor) -> Tensor:
    """What a frozen encoder gives the decoder: signs, or the posterior's mean; [B, K, D]."""
    code = model.encode(images).float()
    return GaussianPosterior(code).mean if model.config.quantizer == "gaussian" else signs(code)


class Teacher:
    """Samples of a trained model, made once for each position of the data if they are kept.

    Args:
        config: The config of the distillation run.
        device: where to sample.
        images: size of the data set; with a cache, crops repeat after ``period`` positions.

    Raises:
        ConfigError: the teacher is of other sizes than the student, or the cache is another's.
        CheckpointError: there is no such teacher.
    """

    def __init__(self, config: TrainConfig, device: torch.device, *, images: int) -> None:
        options = config.distill
        name = options.teacher or config.init
        assert name is not None
        trained = registry.load(name, expected=FlowMo)
        _check_sizes(trained, config, name)
        bf16 = config.precision == "bf16" and device.type == "cuda"
        self._model = InferenceModel(
            trained, dtype=torch.bfloat16 if bf16 else torch.float32, device=device
        )
        self._encoder = {n: p.detach() for n, p in trained.encoder.named_parameters()}
        self._seed = config.seed
        self.sampler = teacher_sampler(trained.config.sampler, options)
        self.period: int | None = None
        self._cache: TeacherCache | None = None
        if options.cache is not None:
            self.period = images * options.cache_epochs
            self._cache = TeacherCache(
                options.cache,
                slots=self.period,
                size=config.model.image_size,
                identity={
                    "teacher": self._model.fingerprint,
                    "sampler": self.sampler.to_dict(),
                    "seed": config.seed,
                    "images": images,
                    "paths": list(config.data.paths),
                    "crop": [
                        config.data.crop,
                        config.data.min_crop_scale,
                        config.data.horizontal_flip,
                        config.data.colour_jitter,
                        config.data.repeat_by_area,
                    ],
                },
            )

    def check_encoder(self, student: FlowMo) -> None:
        """Whether the student's tokens are the teacher's.

        Raises:
            ConfigError: the encoders have different weights.
        """
        for name, parameter in student.encoder.named_parameters():
            own = whole(parameter).cpu()
            if not torch.equal(own, self._encoder[name].to(own.dtype)):
                raise ConfigError(
                    f"the student's encoder is not the teacher's ({name} differs), so that their "
                    f"tokens mean different things; set init to a checkpoint that was trained on "
                    f"from {self._model.config.name!r} with a frozen encoder"
                )

    def targets(self, model: FlowMo, images: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Noise and the teacher's sample from it, for images at positions of the data.

        Args:
            model: the student, whose latent is the teacher's too.
            images: [B, 3, S, S] in [-1, 1].
            positions: int [B]; the same position always gets the same noise.

        Returns:
            Noise and samples, [B, 3, S, S] twice.
        """
        slots = positions.tolist()
        if self.period is not None:
            slots = [slot % self.period for slot in slots]
        seeds = [(self._seed << _POSITION_BITS | slot) % 2**63 for slot in slots]
        start = noise(seeds, tuple(images.shape[1:])).to(images.device)
        if self._cache is None:
            return start, self._sample(fixed_latent(model, images), start)
        kept, missing = self._cache.read(slots)
        target = kept.to(images.device)
        if is_sharded(model):  # processes must gather weights equally often
            latents = fixed_latent(model, images)[missing]
        else:
            latents = fixed_latent(model, images[missing]) if missing else target[:0]
        if missing:
            made = self._sample(latents, start[missing])
            target[missing] = self._cache.write([slots[i] for i in missing], made).to(target)
        return start, target

    def _sample(self, latent: Tensor, start: Tensor) -> Tensor:
        with torch.autocast(start.device.type, enabled=False):
            sample = self._model.decode(latent, start=start, sampler=self.sampler)
        return sample.clone()  # of inference mode, which autograd does not take


def teacher_sampler(own: SamplerConfig, options: DistillConfig) -> SamplerConfig:
    """The teacher's own sampler with what the options change of it."""
    if options.teacher_steps is not None:
        schedule = "power" if own.schedule == "explicit" else own.schedule
        own = replace(own, schedule=schedule, times=(), steps=options.teacher_steps)
    if options.teacher_guidance is not None:
        own = replace(own, guidance=options.teacher_guidance)
    return own


def _check_sizes(teacher: FlowMo, config: TrainConfig, name: str) -> None:
    def sizes(values: dict[str, object]) -> dict[str, object]:
        return {k: v for k, v in values.items() if k not in ("name", "sampler")}

    ours, its = sizes(config.model.to_dict()), sizes(teacher.config.to_dict())
    different = sorted(key for key in ours if ours[key] != its[key])
    if different:
        raise ConfigError(
            f"teacher {name} is of other sizes than the student; different are model."
            f"{', model.'.join(different)}"
        )
