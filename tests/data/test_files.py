"""Files of a folder: which ones count, their splits and classes, and what is left out."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextpixel.data import load
from nextpixel.data.duplicates import find_duplicates
from nextpixel.data.files import find_files
from nextpixel.data.folders import PICTURE_FILES, PICTURES, picture_names
from nextpixel.data.user_data import load_unsplit
from nextpixel.errors import UserError

GREY = np.random.default_rng(0).integers(0, 256, (40, 6, 5), np.uint8)


def fill(folder: Path, count: int = 40, ending: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(GREY[i]).save(folder / f"{i:02}.{ending}")


def total(folder: Path) -> int:
    data = load(folder)
    return len(data.train) + len(data.valid) + len(data.test)


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING"])
@pytest.mark.parametrize("valid", ["valid", "val", "Validation", "dev"])
@pytest.mark.parametrize("test", ["test", "Testing"])
def test_names_of_splits(tmp_path: Path, train: str, valid: str, test: str) -> None:
    for name, count in ((train, 8), (valid, 3), (test, 2)):
        fill(tmp_path / name / "cats", count)
    data = load(tmp_path)
    assert data.class_names == ("cats",)
    assert [len(data.train), len(data.valid), len(data.test)] == [8, 3, 2]


def test_folders_without_pictures_do_not_count(tmp_path: Path) -> None:
    for name, count in (("train", 8), ("valid", 3), ("test", 2)):
        fill(tmp_path / name, count)
    (tmp_path / "__MACOSX" / "train").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "train" / "._00.png").write_bytes(b"not a picture")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "00.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"annotations/00\.json"):
        data = load(tmp_path)
    assert data.class_names is None
    assert [len(data.train), len(data.valid), len(data.test)] == [8, 3, 2]


def test_splits_beside_other_folders_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "dogs")
    with pytest.raises(UserError, match="holds train, which is named like a split, beside dogs"):
        load(tmp_path)


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "training")
    with pytest.raises(UserError, match=r"two folders for one split \(train, training\)"):
        load(tmp_path)


@pytest.mark.parametrize("place", ["", "train"])
def test_links_to_folders_are_followed(tmp_path: Path, place: str) -> None:
    fill(tmp_path / "elsewhere" / "cats", 20)
    fill(tmp_path / "pics" / place / "dogs", 20)
    (tmp_path / "pics" / place / "cats").symlink_to(tmp_path / "elsewhere" / "cats")
    data = load(tmp_path / "pics")
    assert data.class_names == ("cats", "dogs")
    assert total(tmp_path / "pics") == 40


def test_links_in_a_circle_and_broken_ones_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "pics" / "dogs", 30)
    (tmp_path / "pics" / "dogs" / "again").symlink_to(tmp_path / "pics")
    (tmp_path / "pics" / "dogs" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(UserWarning, match=r"2 broken links \(dogs/again, dogs/gone\.png\)"):
        data = load(tmp_path / "pics")
    assert len(data.train) + len(data.valid) + len(data.test) == 30


@pytest.mark.parametrize("ending", ["bmp", "gif", "tif", "tiff", "jfif", "jpe", "PNG", "ppm"])
def test_pictures_of_any_format_are_read(tmp_path: Path, ending: str) -> None:
    fill(tmp_path, 20)
    for i in range(20, 40):
        kind = {"jfif": "jpeg", "jpe": "jpeg"}.get(ending)
        Image.fromarray(GREY[i]).save(tmp_path / f"{i}.{ending}", kind)
    assert len(load_unsplit(tmp_path).images) == 40


def test_pillow_reads_the_formats() -> None:
    readers = Image.registered_extensions()
    assert {readers[ending] for ending in PICTURES} <= set(Image.OPEN)


def test_unreadable_pictures_are_left_out_and_named_once(tmp_path: Path) -> None:
    fill(tmp_path)
    whole = load(tmp_path)
    names = {split: picture_names(tmp_path, split) for split in ("train", "valid", "test")}
    for name in ("00.png", "07.png", "32.png"):  # the first one decides the shape of all others
        (tmp_path / name).write_bytes(b"not a picture")
    os.utime(tmp_path)
    with pytest.warns(UserWarning, match=r"3 unreadable files \(00\.png, 07\.png, 32\.png\)"):
        data = load(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(tmp_path).skipped == data.skipped == ("00.png", "07.png", "32.png")
    for split in ("train", "valid", "test"):
        left = picture_names(tmp_path, split, data.skipped) or []
        before = dict(zip(names[split] or [], getattr(whole, split).x, strict=True))
        np.testing.assert_array_equal(getattr(data, split).x, [before[name] for name in left])


def test_a_folder_of_unreadable_pictures_is_refused(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"png is corrupt or no image"):
        load(tmp_path)


def test_films_are_named(tmp_path: Path) -> None:
    for number in range(40):
        first, *more = (Image.fromarray(GREY[k]) for k in (number, 1, 2))
        first.save(tmp_path / f"{number}.gif", save_all=True, append_images=more * (number == 7))
    with pytest.warns(UserWarning, match=r"1 of 40 pictures .* only the first is read \(7\.gif\)"):
        load(tmp_path)


def test_a_folder_of_sounds_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "Bark.WAV").write_bytes(b"")
    with pytest.raises(UserError, match=f"holds no images: .*; its sounds .* wavs:{tmp_path}"):
        load(tmp_path)


def test_other_files_are_named(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.warns(UserWarning, match=r"1 file without images \(notes\.txt\)"):
        load(tmp_path)


def test_dark_pictures_are_accepted(tmp_path: Path) -> None:
    for i in range(40):
        Image.fromarray(GREY[i] // 16).save(tmp_path / f"{i:02}.png")
    with pytest.warns(UserWarning, match="dark, 15 of 255 at most, and become 0 at 8 levels"):
        data = load(tmp_path, levels=8)
    assert not data.train.x.any()
    assert load(tmp_path).train.x.max() == 15


def test_doubles_are_counted_and_named(tmp_path: Path) -> None:
    fill(tmp_path / "cats", 30)
    assert find_duplicates(load(tmp_path), tmp_path).count == 0
    Image.fromarray(GREY[3]).save(tmp_path / "cats" / "copy.png")
    fill(tmp_path / "dogs", 2)  # those of two cats
    files = {file.name: file.split for file in find_files(tmp_path, PICTURE_FILES)}
    found = find_duplicates(load(tmp_path), tmp_path)
    pairs = [("03", "cats/copy.png"), ("00", "dogs/00.png"), ("01", "dogs/01.png")]
    assert found.count == 3
    assert found.across_classes == 2
    assert found.across_splits == sum(files[f"cats/{a}.png"] != files[b] for a, b in pairs)
    assert {frozenset(pair) for pair in found.examples} == {
        frozenset((f"cats/{a}.png", b)) for a, b in pairs
    }
