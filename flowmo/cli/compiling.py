"""``flowmo export`` and ``flowmo build-engine``: from a checkpoint to compiled parts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flowmo._version import __version__
from flowmo.deploy.buckets import DEFAULT_PROFILE, PROFILES, powers_of_two, profile_of
from flowmo.model.errors import CompilationError

if TYPE_CHECKING:
    from flowmo.deploy.graphs import Half, Part
    from flowmo.deploy.onnx_files import OnnxFile

Dtype = Literal["float32", "bfloat16"]
Attention = Literal["fused", "explicit"]
# Of ONNX Runtime against PyTorch; outputs are of the size of 1 to 10.
_TOLERANCE = 1e-4


def export_command(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder or hub repository.")],
    out: Annotated[Path, typer.Argument(help="Folder to write the graphs to.")],
    dtype: Annotated[Dtype, typer.Option(help="Dtype of weights and activations.")] = "bfloat16",
    attention: Annotated[
        Attention,
        typer.Option(
            help="Attention as one operator (fused), or as products and softmax (explicit)."
        ),
    ] = "fused",
    check: Annotated[
        bool, typer.Option(help="In float32: compare with PyTorch by ONNX Runtime.")
    ] = True,
) -> None:
    """Write a checkpoint's encoder and one step of its decoder, or a prior, as ONNX files."""
    for part in _parts(checkpoint, dtype):
        typer.echo(f"exporting the {part.name} of {part.model} in {dtype}", err=True)
        file = part.export(out, attention)
        line = f"{file.path}  {_megabytes(_size(file.path))}"
        if check and dtype == "float32":
            error = part.difference(file)
            line += f"  largest difference from PyTorch {error:.1e}"
            if not error <= _TOLERANCE:
                typer.echo(line)
                raise CompilationError(
                    f"{file.path} differs from PyTorch by {error:.1e}, more than {_TOLERANCE:g}: "
                    f"do not use it; --attention explicit may help"
                )
        typer.echo(line)


def build_engine_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder that flowmo export has written, one file of it, or a checkpoint folder, "
            "which is exported beside the engines first."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of engines.",
            show_default="the user's cache",
        ),
    ] = None,
    profile: Annotated[
        str, typer.Option(help=f"Batch sizes: {', '.join(PROFILES)}.")
    ] = DEFAULT_PROFILE,
    max_batch: Annotated[
        int | None, typer.Option(help="Instead of --profile: powers of two up to this.", min=1)
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            help="GPU architecture, such as sm89.", show_default="that of the GPU at hand"
        ),
    ] = None,
    library: Annotated[
        Literal["auto", "tensorrt", "tensorrt_rtx"],
        typer.Option(help="tensorrt_rtx also builds where no GPU is."),
    ] = "auto",
    dtype: Annotated[Dtype, typer.Option(help="Dtype of a checkpoint's graphs.")] = "bfloat16",
    refit: Annotated[bool, typer.Option(help="Let the weights be exchanged later.")] = False,
    rebuild: Annotated[bool, typer.Option(help="Build engines that exist already, too.")] = False,
    ready: Annotated[
        Path | None,
        typer.Option(
            help="File to write when all are there: this release, and the checkpoint's config.json."
        ),
    ] = None,
) -> None:
    """Build TensorRT engines from exported graphs, or from a checkpoint."""
    from flowmo.deploy.runners import default_cache
    from flowmo.deploy.tensorrt.build import BuildOptions, build, find_or_build
    from flowmo.deploy.tensorrt.libraries import load_library
    from flowmo.model.checkpoint_files import CONFIG_FILE
    from flowmo.model.files import write_file

    if ready is not None and not (source / CONFIG_FILE).is_file():
        raise typer.BadParameter(f"--ready is about a checkpoint folder, and {source} is none")
    buckets = powers_of_two(max_batch) if max_batch else profile_of(profile)
    loaded = load_library(library)
    options = BuildOptions(architecture=architecture, refittable=refit)
    folder = out or default_cache()
    typer.echo(f"{loaded.name} {loaded.version}, batches of {buckets}", err=True)
    for file in _files(_graphs(source, folder, dtype)):
        if rebuild:
            path, manifest = build(
                file, folder, loaded, buckets, options=options, progress=_progress
            )
            new = True
        else:
            path, manifest, new = find_or_build(
                file, folder, loaded, buckets, options=options, progress=_progress
            )
        report = manifest.report
        how = f"built in {manifest.seconds:.0f} s" if new else "was there already"
        typer.echo(
            f"{path}  {_megabytes(manifest.size)}  {how}, "
            f"{sum(report['layers'].values())} layers, attention fused: {report['attention_fused']}"
        )
    if ready is not None:
        write_file(ready, ready_text(source))


def ready_text(checkpoint: Path) -> bytes:
    """What ``--ready`` writes: the words of ``flowmo --version``, and the checkpoint's config."""
    from flowmo.model.checkpoint_files import CONFIG_FILE

    release = f"flowmo-serve {__version__}\n".encode()
    return release + (checkpoint / CONFIG_FILE).read_bytes()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What a checkpoint is exported as: a half of a tokenizer, or a prior.

    Attributes:
        name: Which.
        model: The model's name.
        fingerprint: The weights'.
        export: Writes it to a folder, with attention in a form.
        difference: The largest difference of what was written from PyTorch.
    """

    name: "Part"
    model: str
    fingerprint: str
    export: "Callable[[Path, Attention], OnnxFile]"
    difference: "Callable[[OnnxFile], float]"


def _parts(checkpoint: str | Path, dtype: Dtype) -> "Iterator[_Part]":
    import torch

    from flowmo.deploy.export import export, largest_difference
    from flowmo.deploy.graphs import HALVES
    from flowmo.deploy.prior_graph import difference_of_prior, export_prior
    from flowmo.model import registry
    from flowmo.model.flowmo import FlowMo
    from flowmo.model.hub import resolve_checkpoint
    from flowmo.model.inference import InferenceModel
    from flowmo.model.prior.checkpoint import PRIOR_TYPE, Prior

    wanted = torch.float32 if dtype == "float32" else torch.bfloat16
    folder = resolve_checkpoint(checkpoint)
    if registry.model_type(folder) == PRIOR_TYPE:
        prior = Prior.from_pretrained(folder, dtype=wanted)
        yield _Part(
            name="prior",
            model=prior.config.name,
            fingerprint=prior.fingerprint(),
            export=lambda out, attention: export_prior(prior, out, attention=attention),
            difference=lambda file: difference_of_prior(file, prior),
        )
        return
    model = InferenceModel(FlowMo.from_pretrained(folder), dtype=wanted)

    def half_of(half: "Half") -> _Part:
        return _Part(
            name=half,
            model=model.config.name,
            fingerprint=model.fingerprint,
            export=lambda out, attention: export(model, out, half, attention=attention),
            difference=lambda file: largest_difference(file, model),
        )

    yield from map(half_of, HALVES)


def _graphs(source: Path, cache: Path, dtype: Dtype) -> Path:
    """The folder of a checkpoint's graphs, where a service looks; else the source itself."""
    from flowmo.model.checkpoint_files import CONFIG_FILE

    if not (source / CONFIG_FILE).is_file():
        return source
    import torch

    from flowmo.deploy.onnx_files import file_name
    from flowmo.deploy.runners import folder_of_graphs

    folder = source
    wanted = torch.float32 if dtype == "float32" else torch.bfloat16
    for part in _parts(source, dtype):
        folder = folder_of_graphs(cache, part.fingerprint, wanted)
        if not (folder / file_name(part.name)).is_file():
            typer.echo(f"exporting the {part.name} to {folder}", err=True)
            part.export(folder, "fused")
    return folder


def _files(source: Path) -> "list[OnnxFile]":
    from flowmo.deploy.graphs import HALVES
    from flowmo.deploy.onnx_files import OnnxFile, file_name

    if not source.is_dir():
        return [OnnxFile.read(source)]
    parts: tuple[Part, ...] = HALVES
    if (source / file_name("prior")).is_file():
        alone = not any((source / file_name(half)).is_file() for half in HALVES)
        parts = ("prior",) if alone else (*HALVES, "prior")
    return [OnnxFile.read(source / file_name(part)) for part in parts]


def _progress(phase: str, done: int, steps: int) -> None:
    if done in {0, steps}:
        typer.echo(f"  {phase}: {'done' if done else 'begun'}", err=True)


def _size(path: Path) -> int:
    """The size of a graph and the weights that lie beside it."""
    data = path.with_name(path.name + ".data")
    return path.stat().st_size + (data.stat().st_size if data.is_file() else 0)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
