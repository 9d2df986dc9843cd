"""``flowmo export`` and ``flowmo build-engine``: from a checkpoint to compiled halves."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flowmo._version import __version__
from flowmo.deploy.buckets import DEFAULT_PROFILE, PROFILES, powers_of_two, profile_of
from flowmo.model.errors import CompilationError

if TYPE_CHECKING:
    from flowmo.deploy.graphs import Half
    from flowmo.deploy.onnx_files import OnnxFile

Dtype = Literal["float32", "bfloat16"]
# Of ONNX Runtime against PyTorch; outputs are of the size of 1 to 10.
_TOLERANCE = 1e-4


def export_command(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder or hub repository.")],
    out: Annotated[Path, typer.Argument(help="Folder to write encoder and decoder_step to.")],
    dtype: Annotated[Dtype, typer.Option(help="Dtype of weights and activations.")] = "bfloat16",
    attention: Annotated[
        Literal["fused", "explicit"],
        typer.Option(
            help="Attention as one operator (fused), or as products and softmax (explicit)."
        ),
    ] = "fused",
    check: Annotated[
        bool, typer.Option(help="In float32: compare with PyTorch by ONNX Runtime.")
    ] = True,
) -> None:
    """Write a checkpoint's encoder and one step of its decoder as ONNX files."""
    import torch

    from flowmo.deploy.export import export, largest_difference
    from flowmo.deploy.graphs import HALVES
    from flowmo.model.flowmo import FlowMo
    from flowmo.model.inference import InferenceModel

    wanted = torch.float32 if dtype == "float32" else torch.bfloat16
    model = InferenceModel(FlowMo.from_pretrained(checkpoint), dtype=wanted)
    for half in HALVES:
        typer.echo(f"exporting the {half} of {model.config.name} in {dtype}", err=True)
        file = export(model, out, half, attention=attention)
        line = f"{file.path}  {_megabytes(_size(file.path))}"
        if check and dtype == "float32":
            error = largest_difference(file, model)
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
    """Build TensorRT engines from exported halves, or from a checkpoint."""
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


def _graphs(source: Path, cache: Path, dtype: Dtype) -> Path:
    """The folder of a checkpoint's graphs, where a service looks; else the source itself."""
    from flowmo.model.checkpoint_files import CONFIG_FILE

    if not (source / CONFIG_FILE).is_file():
        return source
    import torch

    from flowmo.deploy.export import export
    from flowmo.deploy.graphs import HALVES
    from flowmo.deploy.onnx_files import file_name
    from flowmo.deploy.runners import graph_folder
    from flowmo.model.flowmo import FlowMo
    from flowmo.model.inference import InferenceModel

    wanted = torch.float32 if dtype == "float32" else torch.bfloat16
    model = InferenceModel(FlowMo.from_pretrained(str(source)), dtype=wanted)
    folder = graph_folder(cache, model)
    for half in HALVES:
        if not (folder / file_name(half)).is_file():
            typer.echo(f"exporting the {half} to {folder}", err=True)
            export(model, folder, half)
    return folder


def _files(source: Path) -> "list[OnnxFile]":
    from flowmo.deploy.graphs import HALVES
    from flowmo.deploy.onnx_files import OnnxFile, file_name

    if source.is_dir():
        halves: tuple[Half, ...] = HALVES
        return [OnnxFile.read(source / file_name(half)) for half in halves]
    return [OnnxFile.read(source)]


def _progress(phase: str, done: int, steps: int) -> None:
    if done in {0, steps}:
        typer.echo(f"  {phase}: {'done' if done else 'begun'}", err=True)


def _size(path: Path) -> int:
    """The size of a graph and the weights that lie beside it."""
    data = path.with_name(path.name + ".data")
    return path.stat().st_size + (data.stat().st_size if data.is_file() else 0)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
