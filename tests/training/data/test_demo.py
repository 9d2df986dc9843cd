"""The demo data set from tiny packages: real .deb files, synthetic photographs, no network."""

import hashlib
import io
import json
import shutil
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flowmo.imaging.reading import read_image
from flowmo.model.errors import ConfigError
from flowmo.training.data.demo import DemoDataConfig, PackageError, build_demo_data
from flowmo.training.data.demo.__main__ import main
from flowmo.training.data.demo.collection import Collection
from flowmo.training.data.demo.crops import (
    Box,
    SeenHashes,
    candidate_boxes,
    cut,
    detail,
    difference_hash,
    encode_crop,
    most_crops,
)
from flowmo.training.data.demo.cutting import CutPicture
from flowmo.training.data.demo.packages import Package, fetch_package, read_files
from flowmo.training.data.demo.parts import write_parts
from flowmo.training.data.demo.pictures import UnusablePictureError, open_picture
from flowmo.training.data.demo.qt_resources import QtResourceError, read_qt_resources
from flowmo.training.data.demo.sources import Selection, SourcePackage, read_sources
from flowmo.training.data.demo.whole import shrunk_to_its_worth
from flowmo.training.data.held_out import held_out_photographs
from flowmo.training.data.index import ImageIndex
from flowmo.training.errors import DataError

SIZE = 32


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def photograph(seed: int, width: int = 192, height: int = 128) -> Image.Image:
    """Colours that vary at every scale, as in a photograph, with a little noise."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (3, 6, 12, 24):
        levels = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(layer) / 4
    total += random.normal(0, 4, total.shape)
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def drawing(width: int = 128, height: int = 128) -> Image.Image:
    """Three areas of one colour each."""
    image = Image.new("RGB", (width, height), (250, 240, 10))
    image.paste((10, 20, 200), (20, 20, 80, 90))
    image.paste((200, 0, 0), (60, 60, 110, 110))
    return image


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def make_package(cache: Path, name: str, files: Mapping[str, bytes], version: str = "1.0") -> Path:
    """A .deb in ``cache`` as apt-get would have left it there."""
    root = cache / f"{name}-root"
    for path, content in {
        **files,
        f"usr/share/doc/{name}/copyright": f"terms of {name}\n".encode(),
        "DEBIAN/control": (
            f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
            "Maintainer: Nobody <nobody@example.org>\nDescription: pictures\n"
        ).encode(),
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    archive = cache / f"{name}_{version.replace(':', '%3a')}_all.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", root, archive],
        check=True,
        capture_output=True,
    )
    shutil.rmtree(root)
    return archive


def source(name: str, *patterns: str, **selection: Any) -> SourcePackage:
    chosen = Selection(include=patterns or ("*.png",), **selection)
    return SourcePackage(name=name, version="1.0", selections=(chosen,))


def tar_contents(folder: Path) -> dict[str, bytes]:
    contents = {}
    for path in sorted(folder.glob("part-*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file is not None
                contents[member.name] = file.read()
    return contents


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- where crops lie


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    size=st.sampled_from([32, 160, 256]),
    seed=st.integers(0, 3),
)
def test_crops_lie_inside_and_have_the_pixels_they_are_stored_at(
    width: int, height: int, size: int, seed: int
) -> None:
    short = min(width, height)
    boxes = list(candidate_boxes(width, height, size, kind="photograph", generator=generator(seed)))
    assert bool(boxes) == (short >= size / 1.6)
    if boxes:
        assert boxes[0].side == short
    for x, y, side in boxes:
        assert 0 <= x <= width - side
        assert 0 <= y <= height - side
        if side < short:
            assert side >= size * (1.6 if width * height >= 1_000_000 else 1.0)


def test_crops_cover_a_large_picture_at_several_scales() -> None:
    boxes = list(candidate_boxes(1600, 1200, 64, kind="photograph", generator=generator()))
    covered = np.zeros((1200, 1600), dtype=bool)
    smallest = min(box.side for box in boxes)
    for box in boxes:
        if box.side == smallest:
            covered[box.y : box.y + box.side, box.x : box.x + box.side] = True
    assert covered.mean() > 0.9
    assert len({box.side for box in boxes[:8]}) == 8  # scales take turns


def test_a_picture_gives_crops_by_its_area_up_to_a_limit() -> None:
    assert most_crops(160, 160, 160, limit=100) == 4
    assert most_crops(320, 160, 160, limit=100) == 8
    assert most_crops(4000, 3000, 160, limit=100) == 100
    assert most_crops(100, 100, 256, limit=100) == 1


def test_a_crop_shows_its_box() -> None:
    picture = Image.new("RGB", (100, 60), "red")
    picture.paste((0, 0, 255), (40, 20, 80, 60))
    crop = np.asarray(cut(picture, Box(40, 20, 40), 20))
    assert crop.shape == (20, 20, 3)
    inner = crop[3:-3, 3:-3]  # the filter reaches a little beyond the box
    np.testing.assert_array_equal(inner, np.broadcast_to([0, 0, 255], inner.shape))


# --- which crops are kept


def test_flat_crops_are_told_from_ones_with_detail() -> None:
    ramp = np.broadcast_to(np.linspace(60, 200, 64)[:, None], (64, 64)).astype(np.uint8)
    assert detail(Image.new("RGB", (64, 64), "teal")) is None
    assert detail(Image.fromarray(ramp).convert("RGB")) is None
    found = detail(photograph(0, 64, 64))
    assert found is not None
    assert found > 4


def test_the_hash_knows_a_picture_again_and_no_other() -> None:
    picture = photograph(0)
    again = Image.open(io.BytesIO(encoded(picture.resize((90, 60)), "JPEG")))
    assert (difference_hash(picture) ^ difference_hash(again)).bit_count() <= 4
    for seed in range(1, 10):
        other = photograph(seed)
        assert (difference_hash(picture) ^ difference_hash(other)).bit_count() > 8


def test_near_duplicates_are_found_among_many_hashes() -> None:
    seen = SeenHashes()
    values = [int(value) for value in generator().integers(0, 2**63, 3000)]
    assert all(seen.add_if_new(value, 2) for value in values)
    assert len(seen) == 3000
    assert not seen.add_if_new(values[1234] ^ 0b101, 2)
    assert seen.add_if_new(values[1234] ^ 0b111, 2)


def test_the_same_crops_of_another_picture_are_dropped() -> None:
    def cropped(path: str, picture_hash: int) -> CutPicture:
        box = Box(0, 0, 64)
        crops = [
            encode_crop(photograph(seed, 64, 64), box, amount_of_detail=9.0, quality=90)
            for seed in (1, 2)
        ]
        return CutPicture(
            package="p", path=path, width=64, height=64, hash=picture_hash, crops=tuple(crops)
        )

    collection = Collection([])
    collection.add(cropped("a", 0x0F0F0F0F0F0F0F0F))
    collection.add(cropped("b", 0xF0F0F0F0F0F0F0F0))
    collection.add(cropped("c", 0x0F0F0F0F0F0F0F0D))
    assert [picture.path for picture in collection.pictures] == ["a"]
    assert len(collection.crops) == 2
    assert collection.dropped_crops == {"near-duplicate": 2}
    assert collection.dropped_pictures == {"no crop left": 1, "near-duplicate": 1}


# --- files to pictures


def test_a_cutout_is_set_on_one_plain_colour() -> None:
    picture = photograph(1, 100, 50).convert("RGBA")
    stamp = Image.new("RGBA", (300, 200))
    stamp.paste(picture, (150, 20))
    opened = open_picture(encoded(stamp), kind="cutout", generator=generator(1))
    assert opened.mode == "RGB"
    assert opened.size == (112, 112)  # the longer visible side and a margin of 6 % on each side
    pixels = np.asarray(opened)
    inside = pixels[31 : 31 + 50, 6 : 6 + 100]
    np.testing.assert_array_equal(inside, np.asarray(picture)[..., :3])
    outside = np.concatenate([pixels[:31].reshape(-1, 3), pixels[81:].reshape(-1, 3)])
    assert len(np.unique(outside, axis=0)) == 1


def test_backgrounds_of_cutouts_vary_and_repeat_with_the_seed() -> None:
    data = on_transparent_ground(photograph(1, 60, 60))

    def colour(seed: int) -> tuple[int, ...]:
        opened = open_picture(data, kind="cutout", generator=generator(seed))
        return tuple(int(level) for level in np.asarray(opened)[0, 0])

    colours = [colour(seed) for seed in range(20)]
    assert colours == [colour(seed) for seed in range(20)]
    assert len(set(colours)) == 20
    assert 2 <= sum(len(set(levels)) == 1 for levels in colours) <= 15  # some are grey


def test_half_transparent_pixels_are_mixed_with_the_background() -> None:
    picture = photograph(3, 80, 80).convert("RGBA")
    picture.paste((255, 0, 0, 128), (0, 0, 80, 10))
    picture.paste((0, 0, 0, 0), (0, 70, 80, 80))
    pixels = np.asarray(
        open_picture(encoded(picture), kind="photograph", generator=generator())
    ).astype(int)
    background = pixels[75, 40]
    np.testing.assert_allclose(pixels[5, 40], (np.array([255, 0, 0]) + background) / 2, atol=1.5)


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (b"no picture", "photograph", "unreadable"),
        (encoded(photograph(0))[:2000], "photograph", "unreadable"),
        (encoded(drawing()), "photograph", "few levels"),
        (encoded(Image.new("RGBA", (64, 64))), "cutout", "transparent"),
    ],
)
def test_files_that_are_no_photographs_are_turned_away(data: bytes, kind: Any, reason: str) -> None:
    with pytest.raises(UnusablePictureError, match=reason):
        open_picture(data, kind=kind, generator=generator())


def on_transparent_ground(image: Image.Image) -> bytes:
    stamp = Image.new("RGBA", (image.width + 40, image.height + 40))
    stamp.paste(image, (20, 20))
    return encoded(stamp)


def test_a_shaded_drawing_is_told_from_a_cut_out_photograph() -> None:
    # Many colours, but areas of one exact value: an antialiased, shaded drawing.
    shaded = photograph(0, 16, 16).resize((160, 160), Image.Resampling.NEAREST)
    with pytest.raises(UnusablePictureError, match="drawing"):
        open_picture(on_transparent_ground(shaded), kind="cutout", generator=generator())
    data = on_transparent_ground(photograph(0, 160, 160))
    assert open_picture(data, kind="cutout", generator=generator()).width == 179


# --- parts


def test_parts_stay_under_their_limit_and_hold_every_image_in_order(tmp_path: Path) -> None:
    images = [generator(i).bytes(100 + 137 * i) for i in range(40)]
    parts = write_parts(images, tmp_path, most_bytes=30_720)
    assert list(tar_contents(tmp_path).values()) == images
    assert list(tar_contents(tmp_path)) == [f"{i:06d}.webp" for i in range(40)]
    assert len(parts) > 2
    for part in parts:
        data = (tmp_path / part.name).read_bytes()
        assert len(data) == part.size <= 30_720
        assert hashlib.sha256(data).hexdigest() == part.sha256
    assert sum(part.crops for part in parts) == 40


def test_a_part_too_small_for_an_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="larger parts"):
        write_parts([bytes(20_000)], tmp_path, most_bytes=10_240)


# --- Qt resource bundles


def qt_bundle(files: Mapping[str, bytes], *, compress: bool = False, version: int = 2) -> bytes:
    """A bundle with one folder ``pictures``, as Qt's rcc lays it out."""
    names, contents, nodes = b"", b"", []
    tail = b"" if version == 1 else bytes(8)

    def name(text: str) -> int:
        nonlocal names
        start = len(names)
        names += struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")
        return start

    nodes.append(struct.pack(">IHII", 0, 2, 1, 1) + tail)
    nodes.append(struct.pack(">IHII", name("pictures"), 2, len(files), 2) + tail)
    for path, data in files.items():
        stored = struct.pack(">I", len(data)) + zlib.compress(data) if compress else data
        node = struct.pack(">IHII", name(path), int(compress), 0, len(contents)) + tail
        nodes.append(node)
        contents += struct.pack(">I", len(stored)) + stored
    tree = b"".join(nodes)
    header = struct.pack(">4s4I", b"qres", version, 20, 20 + len(tree), 20 + len(tree + contents))
    return header + tree + contents + names


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_files_in_qt_bundles_are_found(compress: bool, version: int) -> None:
    files = {"dog.webp": b"dog" * 50, "cät.webp": b"cat"}
    bundle = qt_bundle(files, compress=compress, version=version)
    assert read_qt_resources(bundle) == [(f"pictures/{name}", files[name]) for name in files]


def test_damaged_qt_bundles_are_errors() -> None:
    bundle = qt_bundle({"a": b"a"})
    for data in (b"PK\3\4 something else", bundle[:30], bundle[:10]):
        with pytest.raises(QtResourceError):
            read_qt_resources(data)
    with pytest.raises(QtResourceError, match="version 9"):
        read_qt_resources(qt_bundle({"a": b"a"}, version=1).replace(b"\0\0\0\1", b"\0\0\0\x09", 1))


# --- packages


def test_only_wanted_files_are_read_and_bundles_count_as_folders(tmp_path: Path) -> None:
    bundle = qt_bundle({"dog.webp": b"dog", "dog.txt": b"text"})
    files = {"usr/share/b.png": b"b", "usr/share/a.txt": b"a", "usr/share/all.rcc": bundle}
    make_package(tmp_path, "pictures", files, version="2:1.0-1")
    package = fetch_package("pictures", tmp_path)
    assert package.version == "2:1.0-1"
    found = read_files(package, lambda path: path.endswith((".png", ".webp")))
    assert found == {"usr/share/all.rcc/pictures/dog.webp": b"dog", "usr/share/b.png": b"b"}


def test_a_damaged_package_is_an_error(tmp_path: Path) -> None:
    archive = make_package(tmp_path, "pictures", {"a.png": generator().bytes(200_000)})
    archive.write_bytes(archive.read_bytes()[:100_000])
    package = Package(name="pictures", version="1.0", archive=archive)
    with pytest.raises(PackageError, match="cannot be read"):
        read_files(package, lambda path: True)


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PackageError, match="apt-get is not on PATH"):
        fetch_package("pictures", tmp_path)


@pytest.fixture
def no_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose archive has no package at all: only the cache serves."""
    tools = tmp_path / "tools"
    tools.mkdir()
    dpkg_deb = shutil.which("dpkg-deb")
    assert dpkg_deb is not None
    (tools / "dpkg-deb").symlink_to(dpkg_deb)
    (tools / "apt-get").write_text(
        "#!/bin/sh\necho 'W: a warning' >&2\necho 'E: no' >&2\nexit 100\n"
    )
    (tools / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")


# --- the whole


@pytest.fixture
def cache(tmp_path: Path, no_archive: None) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    make_package(
        folder,
        "walls",
        {
            "usr/share/1.png": encoded(photograph(1)),
            "usr/share/2.jpg": encoded(photograph(2), "JPEG"),
            "usr/share/same-as-2.jpg": encoded(photograph(2).resize((150, 100)), "JPEG"),
            "usr/share/drawing.png": encoded(drawing()),
            "usr/share/icon.png": encoded(photograph(3, 12, 12)),
            "usr/share/screenshot.png": encoded(photograph(4)),
        },
    )
    stamp = on_transparent_ground(photograph(5, 80, 80))
    make_package(folder, "stamps", {"usr/share/stamp.png": stamp})
    return folder


SOURCES = (
    source("walls", "*.png", "*.jpg", exclude=("*/screenshot*",)),
    source("stamps", kind="cutout", most_crops=2),
)


def build(cache: Path, out: Path, **options: Any) -> dict[str, Any]:
    config = DemoDataConfig(size=SIZE, **options.pop("config", {}))
    options.setdefault("sources", SOURCES)
    path = build_demo_data(out, config, cache=cache, **options)
    manifest: dict[str, Any] = json.loads(path.read_text())
    return manifest


def test_the_manifest_says_where_every_crop_comes_from(cache: Path, tmp_path: Path) -> None:
    manifest = build(cache, tmp_path / "out")
    contents = tar_contents(tmp_path / "out")
    assert len(contents) == len(manifest["crops"]) > 20
    originals = {"usr/share/1.png": photograph(1)}
    compared = 0
    for data, (index, x, y, side) in zip(contents.values(), manifest["crops"], strict=True):
        image = Image.open(io.BytesIO(data))
        assert image.format == "WEBP"
        assert image.size == (SIZE, SIZE)
        picture = manifest["pictures"][index]
        if (original := originals.get(picture["path"])) is not None:
            expected = np.asarray(cut(original, Box(x, y, side), SIZE), dtype=float)
            assert np.abs(np.asarray(image, dtype=float) - expected).mean() < 12
            compared += 1
    assert compared == manifest["pictures"][0]["crops"] > 5
    assert [(p["path"], p["width"], p["height"]) for p in manifest["pictures"]] == [
        ("usr/share/1.png", 192, 128),
        ("usr/share/2.jpg", 192, 128),
        ("usr/share/stamp.png", 90, 90),
    ]
    assert manifest["pictures"][2]["crops"] <= 2


def test_the_manifest_counts_what_was_dropped_and_names_the_terms(
    cache: Path, tmp_path: Path
) -> None:
    manifest = build(cache, tmp_path / "out")
    assert manifest["dropped_pictures"] == {"few levels": 1, "near-duplicate": 1, "too small": 1}
    assert manifest["dropped_crops"]["near-duplicate"] > 0
    assert manifest["settings"] == {
        "size": SIZE,
        "form": "crops",
        "quality": 90,
        "part_bytes": 45_000_000,
        "seed": 0,
    }
    for record in manifest["packages"]:
        archive = cache / f"{record['name']}_1.0_all.deb"
        assert record["version"] == record["chosen_on"] == "1.0"
        assert record["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
        terms = (tmp_path / "out" / record["copyright"]).read_text()
        assert terms == f"terms of {record['name']}\n"
        mine = [p for p in manifest["pictures"] if p["package"] == record["name"]]
        assert record["pictures"] == len(mine)
        assert record["crops"] == sum(p["crops"] for p in mine)
    assert sum(part["crops"] for part in manifest["parts"]) == len(manifest["crops"])


def test_the_same_packages_and_settings_give_the_same_bytes(cache: Path, tmp_path: Path) -> None:
    build(cache, tmp_path / "one")
    build(cache, tmp_path / "three", workers=3)
    assert digests(tmp_path / "one") == digests(tmp_path / "three")
    other = build(cache, tmp_path / "other", config={"seed": 1})
    assert other["crops"] != json.loads((tmp_path / "one/manifest.json").read_text())["crops"]


def test_a_finished_data_set_is_left_alone_and_a_changed_one_replaced(
    cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    manifest = build(cache, out, config={"part_bytes": 20_480})
    assert len(manifest["parts"]) > 2
    part = out / "part-000.tar"
    before = part.stat().st_mtime_ns, part.stat().st_ino
    build(cache, out, config={"part_bytes": 20_480})
    assert (part.stat().st_mtime_ns, part.stat().st_ino) == before
    # A lost part, then another setting: both are a reason to build again; what a killed build left
    # goes away.
    (out / ".new").mkdir()
    part.unlink()
    assert build(cache, out, config={"part_bytes": 20_480}) == manifest
    assert part.exists()
    build(cache, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "licences",
        "manifest.json",
        "part-000.tar",
    ]


def test_whole_pictures_are_kept_at_the_size_of_their_worth(cache: Path, tmp_path: Path) -> None:
    manifest = build(cache, tmp_path / "out", config={"form": "pictures"})
    contents = tar_contents(tmp_path / "out")
    assert len(contents) == len(manifest["crops"]) == len(manifest["pictures"])
    sizes = {}
    for data, (index, *box) in zip(contents.values(), manifest["crops"], strict=True):
        assert box == [0, 0, 0]
        picture = manifest["pictures"][index]
        assert picture["crops"] == 1
        with Image.open(io.BytesIO(data)) as image:
            sizes[picture["path"]] = image.size
    assert sizes == {
        "usr/share/1.png": (192, 128),  # four crops wide
        "usr/share/2.jpg": (192, 128),
        "usr/share/stamp.png": (SIZE, SIZE),  # two crops at most, so no larger than one
    }


@given(st.integers(20, 4000), st.integers(20, 4000), st.integers(1, 300))
def test_a_pictures_worth_bounds_its_size(width: int, height: int, most: int) -> None:
    picture = Image.new("RGB", (width, height))
    small = shrunk_to_its_worth(picture, SIZE, most_crops=most)
    assert min(small.size) <= max(4 * SIZE, min(SIZE, width, height))
    assert min(small.size) >= min(SIZE, width, height)
    assert small.width <= width
    assert small.height <= height
    if min(small.size) > SIZE:  # a pixel of rounding on each side
        assert (small.width - 1) * (small.height - 1) <= most / 4 * SIZE**2


def test_pictures_of_held_out_packages_are_put_aside(cache: Path, tmp_path: Path) -> None:
    make_package(
        cache,
        "copies",
        {
            "usr/share/copy.png": encoded(photograph(2).resize((150, 100))),
            "usr/share/other.png": encoded(photograph(9)),
        },
    )
    sources = (
        source("copies", "*.png"),
        replace(source("walls", "*.png", "*.jpg", exclude=("*/screenshot*",)), held_out=True),
    )
    manifest = build(cache, tmp_path / "out", sources=sources)
    assert [record["name"] for record in manifest["packages"]] == ["copies"]
    assert {picture["path"] for picture in manifest["pictures"]} == {"usr/share/other.png"}
    assert manifest["dropped_pictures"]["held out"] == 1
    folder = tmp_path / "out" / "held-out"
    names = {"walls-1.png", "walls-2.png", "walls-same-as-2.png", "walls-icon.png"}
    assert manifest["held_out"] == dict.fromkeys(names, "walls")
    assert {path.name for path in folder.iterdir()} == names
    with Image.open(folder / "walls-1.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(photograph(1)))


def test_four_packages_are_held_out() -> None:
    held_out = {package.name for package in read_sources() if package.held_out}
    assert held_out == {
        "lomiri-wallpapers-16.04",
        "lomiri-wallpapers-20.04",
        "lxqt-themes",
        "palapeli-data",
    }


def test_the_trainer_reads_the_parts(cache: Path, tmp_path: Path) -> None:
    manifest = build(cache, tmp_path / "out", config={"part_bytes": 20_480})
    index = ImageIndex([str(tmp_path / "out" / "part-*.tar")])
    assert len(index) == len(manifest["crops"])
    assert [index.read(i) for i in range(len(index))] == list(
        tar_contents(tmp_path / "out").values()
    )
    index.close()


def test_held_out_photographs_never_enter(cache: Path, tmp_path: Path) -> None:
    photographs = held_out_photographs()
    cat = read_image(photographs["chelsea.png"]).picture
    square = (
        read_image(photographs["astronaut.png"]).picture.crop((0, 0, 512, 512)).resize((200, 200))
    )
    files = {
        "usr/share/cat.jpg": encoded(cat.resize((400, 266)), "JPEG"),
        "usr/share/portrait.jpg": encoded(square, "JPEG"),
        "usr/share/other.jpg": encoded(photograph(7), "JPEG"),
    }
    make_package(cache, "leaky", files)
    manifest = build(cache, tmp_path / "out", sources=[source("leaky", "*.jpg")])
    assert [p["path"] for p in manifest["pictures"]] == ["usr/share/other.jpg"]
    assert manifest["dropped_pictures"]["held out"] == 2


def test_a_package_that_cannot_be_had_is_noted_or_an_error(cache: Path, tmp_path: Path) -> None:
    sources = [*SOURCES, source("gone")]
    manifest = build(cache, tmp_path / "out", sources=sources)
    note = manifest["skipped_packages"].pop("gone")
    assert not manifest["skipped_packages"]
    assert "E: no" in note
    assert "a warning" not in note
    assert "apt-get update" in note
    with pytest.raises(PackageError, match="package gone cannot be downloaded"):
        build(cache, tmp_path / "strict", sources=sources, strict=True)
    with pytest.raises(PackageError, match="none of the packages"):
        build(cache, tmp_path / "none", sources=[source("gone")])
    assert not (tmp_path / "none" / "manifest.json").exists()


def test_packages_without_photographs_are_an_error(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="few levels"):
        build(cache, tmp_path / "out", sources=[source("walls", "*/drawing.png")])
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_builds_and_reports_errors(
    tmp_path: Path, no_archive: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path / "out"), "--size", "8"])
    assert stopped.value.code == 1
    assert "16 to 2048" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path / "out"), "--strict"])
    assert stopped.value.code == 1
    assert "gcompris-qt-data cannot be downloaded" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 4},
        {"quality": 101},
        {"part_bytes": 0},
        {"seed": -1},
        {"size": 4096},
        {"form": "squares"},
    ],
)
def test_settings_out_of_range_are_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DemoDataConfig(**wrong)


# --- the list of sources


def test_sources_do_not_name_packages_of_the_held_out_photographs() -> None:
    names = [package.name for package in read_sources()]
    assert len(names) > 15
    assert not [name for name in names if "skimage" in name or "sklearn" in name]


def test_a_selection_excludes_after_including(tmp_path: Path) -> None:
    file = tmp_path / "sources.toml"
    file.write_text(
        '[[packages]]\nname = "p"\nversion = "1"\n[[packages.selections]]\n'
        'include = ["*/big/*.jpg"]\nexclude = ["*-mask.jpg"]\n'
    )
    (package,) = read_sources(file)
    assert package.selection("usr/big/deep/a.jpg") is not None
    assert package.selection("usr/big/a-mask.jpg") is None
    assert package.selection("usr/small/a.jpg") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("packages = [", "not TOML"),
        ('[[packages]]\nname = "p"\nversion = "1"\nselections = []\nsize = 3', "size"),
        ('[[packages]]\nname = "p"\nversion = "1"\nselections = [{include = []}]', "one pattern"),
        ('[[packages]]\nname = "p"\nversion = "1"\nselections = []\n' * 2, "twice"),
    ],
)
def test_mistakes_in_a_list_of_sources_are_errors(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "sources.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_sources(tmp_path / "sources.toml")
