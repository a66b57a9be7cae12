import gzip
import io
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextpixel.data import load
from nextpixel.data.user_data import load_unsplit
from nextpixel.errors import UserError
from tests.helpers import NOISE

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 6, 5), np.uint8)
COLOUR = RNG.integers(0, 256, (40, 3, 6, 5), np.uint8)
IDS = np.arange(40) % 4


def everything(data):
    return np.concatenate([data.train.x, data.valid.x, data.test.x])


def rows(x):
    return sorted(image.tobytes() for image in x)


def idx(array):
    shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return b"\0\0\x08" + bytes([array.ndim]) + shape + array.astype(np.uint8).tobytes()


# --- arrays ---------------------------------------------------------------------------------------


def test_npz_without_splits_is_split_80_10_10(tmp_path):
    np.savez(tmp_path / "mine.npz", x=GREY, y=IDS)
    data = load(str(tmp_path / "mine.npz"))
    assert (data.name, data.shape, data.levels, data.classes) == ("mine", (1, 6, 5), 256, 4)
    assert [len(data.train), len(data.valid), len(data.test)] == [32, 4, 4]
    assert rows(everything(data)) == rows(GREY)
    for split in (data.train, data.valid, data.test):
        for image, label in zip(split.x, split.y, strict=True):
            where = [i for i in range(40) if np.array_equal(GREY[i], image[0])]
            assert IDS[where].tolist() == [label]


def test_the_split_of_arrays_never_changes(tmp_path):
    x = np.zeros((40, 2, 2), np.uint8)
    x[:, 0, 0] = np.arange(40)
    np.save(tmp_path / "x.npy", x)
    data = load(tmp_path / "x.npy")
    assert data.valid.x[:, 0, 0, 0].tolist() == ARRAY_VALID
    assert data.test.x[:, 0, 0, 0].tolist() == ARRAY_TEST


ARRAY_VALID = [6, 10, 24, 34]
ARRAY_TEST = [4, 5, 8, 33]


@pytest.mark.parametrize("naming", ["x_{}", "{}"])
def test_npz_with_splits_keeps_them(tmp_path, naming):
    parts = {"train": slice(0, 20), "valid": slice(20, 30), "test": slice(30, 40)}
    arrays = {naming.format(name): COLOUR[part] for name, part in parts.items()}
    arrays |= {f"y_{name}": IDS[part] for name, part in parts.items()}
    np.savez(tmp_path / "mine.npz", **arrays)
    data = load(tmp_path / "mine.npz")
    assert data.shape == (3, 6, 5)
    for name, part in parts.items():
        assert np.array_equal(getattr(data, name).x, COLOUR[part])
        assert np.array_equal(getattr(data, name).y, IDS[part])


def test_npz_takes_only_the_missing_split_from_train(tmp_path):
    np.savez(tmp_path / "mine.npz", x_train=GREY[:30], x_test=GREY[30:])
    data = load(tmp_path / "mine.npz")
    assert [len(data.train), len(data.valid), len(data.test)] == [27, 3, 10]
    assert np.array_equal(data.test.x[:, 0], GREY[30:])
    assert rows(everything(data)) == rows(GREY)
    assert data.train.y is None
    assert data.classes is None


@pytest.mark.parametrize("channels", [None, 3])
def test_channels_may_come_first_or_last(tmp_path, channels):
    np.save(tmp_path / "first.npy", COLOUR)
    np.save(tmp_path / "last.npy", COLOUR.transpose(0, 2, 3, 1))
    first, last = (load(tmp_path / f"{name}.npy", channels=channels) for name in ("first", "last"))
    assert first.shape == last.shape == (3, 6, 5)
    assert np.array_equal(first.train.x, last.train.x)
    assert rows(everything(first)) == rows(COLOUR)


def test_channels_that_could_be_either_must_be_named(tmp_path):
    x = RNG.integers(0, 256, (40, 3, 6, 1), np.uint8)
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(UserError, match="channels could come first or last: give channels"):
        load(tmp_path / "x.npy")
    assert load(tmp_path / "x.npy", channels=3).shape == (3, 6, 1)
    assert load(tmp_path / "x.npy", channels=1).shape == (1, 3, 6)


@pytest.mark.parametrize(
    ("x", "stated", "levels"),
    [
        (GREY, None, 256),
        (GREY % 2, None, 2),
        (GREY > 128, None, 2),
        (GREY.astype(np.int64), None, 256),
        (GREY % 16, 16, 16),
        (GREY % 16, 200, 200),
    ],
)
def test_levels_of_arrays(tmp_path, x, stated, levels):
    stated = {} if stated is None else {"levels": stated}
    np.savez(tmp_path / "x.npz", x=x, **stated)
    data = load(tmp_path / "x.npz")
    assert data.levels == data.train.levels == levels
    assert rows(everything(data)) == rows(x.astype(np.uint8))
    fewer = load(tmp_path / "x.npz", levels=levels // 2 + 1)
    assert fewer.levels == levels // 2 + 1
    expected = x.astype(int) * fewer.levels // levels
    assert rows(everything(fewer)) == rows(expected.astype(np.uint8))


def test_levels_are_not_blanked_by_mistake(tmp_path):
    np.savez(tmp_path / "codes.npz", x=GREY % 16)
    with pytest.raises(UserError, match="values up to 15 only, which 16 of 256 levels"):
        load(tmp_path / "codes.npz", levels=16)


def test_black_arrays_take_the_levels_of_a_model(tmp_path):
    np.save(tmp_path / "black.npy", GREY * 0)
    assert load(tmp_path / "black.npy").levels == 2
    for levels in (2, 4, 256):
        data = load(tmp_path / "black.npy", levels=levels)
        assert data.levels == levels
        assert not everything(data).any()
    assert load_unsplit(tmp_path / "black.npy", levels=256).images.levels == 256
    np.save(tmp_path / "bits.npy", GREY % 2)
    with pytest.raises(UserError, match="2 levels, which cannot be turned into 256"):
        load(tmp_path / "bits.npy", levels=256)


def test_stated_levels_may_blank_dark_images(tmp_path):
    np.savez(tmp_path / "dark.npz", x=GREY % 16, levels=256)
    assert not everything(load(tmp_path / "dark.npz", levels=8)).any()


def test_an_npz_with_a_single_array_without_a_name(tmp_path):
    np.savez(tmp_path / "x.npz", GREY)
    assert rows(everything(load(tmp_path / "x.npz"))) == rows(GREY)


def test_the_names_of_medmnist(tmp_path):
    parts = {"train": slice(0, 20), "val": slice(20, 30), "test": slice(30, 40)}
    arrays = {f"{name}_images": GREY[part] for name, part in parts.items()}
    arrays |= {f"{name}_labels": IDS[part, None] for name, part in parts.items()}
    np.savez(tmp_path / "medmnist.npz", **arrays)
    data = load(tmp_path / "medmnist.npz")
    for name, part in zip(("train", "valid", "test"), parts.values(), strict=True):
        assert np.array_equal(getattr(data, name).x[:, 0], GREY[part])
        assert np.array_equal(getattr(data, name).y, IDS[part])
    np.savez(tmp_path / "val.npz", x_train=GREY[:30], x_val=GREY[30:35], x_test=GREY[35:])
    assert np.array_equal(load(tmp_path / "val.npz").valid.x[:, 0], GREY[30:35])


def test_class_ids_in_a_column(tmp_path):
    np.savez(tmp_path / "x.npz", x=GREY, y=IDS[:, None])
    assert load(tmp_path / "x.npz").classes == 4


@pytest.mark.parametrize("last", [3, 4])
def test_one_picture_in_colour_is_not_taken_for_grey_images(tmp_path, last):
    np.save(tmp_path / "x.npy", RNG.integers(0, 256, (40, 6, last), np.uint8))
    with pytest.raises(UserError, match=rf"40 grey images {last} pixels wide: give channels=3"):
        load(tmp_path / "x.npy")
    assert load(tmp_path / "x.npy", channels=1).shape == (1, 6, last)
    if last == 3:
        found = load_unsplit(tmp_path / "x.npy", channels=3)
        assert found.images.x.shape == (1, 3, 40, 6)


def test_pictures_have_one_or_three_channels(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", x=COLOUR[:, :2])
    for reader in (load, load_unsplit):
        with pytest.raises(UserError, match="channels is 1 for grey or 3 for colour, not 2"):
            reader(tmp_path / "two.npz", channels=2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": GREY / 255}, "holds float64 where images are integers"),
        ({"x": GREY.astype(np.int16) + 100}, "values from 100 to 355"),
        ({"x": GREY.astype(np.int16) - 1}, "values from -1 to"),
        ({"x": GREY[0]}, r"\(N, H, W\), \(N, C, H, W\) or \(N, H, W, C\)"),
        ({"x": COLOUR[:, :2]}, "with C = 1 or 3"),
        ({"x": GREY[:9]}, "has 9 images"),
        ({"x": GREY, "y": IDS[:-1]}, "not as many class ids"),
        ({"x": GREY, "y": IDS - 1}, "not whole numbers from 0"),
        ({"x": GREY, "y": IDS / 2}, "not whole numbers from 0"),
        ({"x": GREY, "y": IDS * 10**8}, "not whole numbers from 0 to 65,535"),
        ({"x": GREY, "levels": 17}, "states levels = 17"),
        ({"x": GREY % 2, "levels": 300}, "states levels = 300"),
        ({"x": GREY, "labels": IDS}, "arrays named labels, x: name the images x"),
        ({"images": GREY}, "arrays named images: name the images x"),
        ({"x_test": GREY}, "arrays named x_test: name the images"),
        ({"x_train": GREY, "x_test": GREY, "y_test": IDS}, "class ids for some splits only"),
        ({"x_train": GREY, "x_test": COLOUR}, "different shapes"),
        ({"x_train": GREY, "x_test": GREY[:0]}, "no image for the test split"),
        ({"x": GREY[:, :0]}, "images without pixels"),
        ({"x": GREY.astype(object)}, "pickled Python objects, which are never loaded"),
    ],
)
def test_arrays_that_cannot_be_meant_are_refused(tmp_path, arrays, message):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('the pickle ran')",)


def test_nothing_is_unpickled(tmp_path):
    (tmp_path / "plain.npy").write_bytes(pickle.dumps(Trap()))
    np.save(tmp_path / "objects.npy", np.array([Trap()] * 12, object), allow_pickle=True)
    for name in ("plain.npy", "objects.npy"):
        with pytest.raises(UserError, match=rf"{name} holds pickled Python objects"):
            load(tmp_path / name)


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_truncated_arrays_are_named(tmp_path, ending):
    path = tmp_path / f"mine.{ending}"
    (np.save if ending == "npy" else np.savez)(path, GREY)
    whole = path.read_bytes()
    for raw in (whole[:-40], whole[:60], b""):
        path.write_bytes(raw)
        with pytest.raises(UserError, match=re.escape(str(path))):
            load(path)


def test_size_is_not_for_arrays(tmp_path):
    np.save(tmp_path / "x.npy", GREY)
    with pytest.raises(UserError, match="resize is for a folder of pictures"):
        load(tmp_path / "x.npy", resize=4)


# --- IDX ------------------------------------------------------------------------------------------


def test_idx_file_finds_its_labels(tmp_path):
    (tmp_path / "my-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(GREY)))
    data = load(tmp_path / "my-images-idx3-ubyte.gz")
    assert rows(everything(data)) == rows(GREY)
    assert data.classes is None
    (tmp_path / "my-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(IDS)))
    assert load(tmp_path / "my-images-idx3-ubyte.gz").classes == 4


def test_idx_folder_in_the_naming_of_mnist(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(GREY[:30]))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(IDS[:30]))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(GREY[30:])))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(IDS[30:])))
    data = load(tmp_path)
    assert [len(data.train), len(data.valid), len(data.test)] == [27, 3, 10]
    assert np.array_equal(data.test.x[:, 0], GREY[30:])
    assert np.array_equal(data.test.y, IDS[30:])


def test_idx_folder_needs_its_training_images(tmp_path):
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(GREY))
    with pytest.raises(UserError, match=r"but no train-images-idx3-ubyte\(\.gz\): add it"):
        load(tmp_path)
    assert len(load(tmp_path / "t10k-images-idx3-ubyte").train) == 32


def test_a_path_is_never_taken_for_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "mnist")
    assert load("./mnist").shape == (1, 6, 5)
    assert load(Path("mnist")).shape == (1, 6, 5)
    with pytest.raises(UserError, match="There is no data set, file or folder 'missing'"):
        load(Path("missing"))


def test_any_other_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"notes\.txt is not an IDX file"):
        load(tmp_path / "notes.txt")


# --- folders --------------------------------------------------------------------------------------


def save(path, x):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def fill(folder, n=40, x=GREY, ending="png"):
    for i in range(n):
        save(folder / f"{i:02}.{ending}", x[i])


def test_folder_with_a_class_a_subfolder(tmp_path):
    for i in range(40):
        save(tmp_path / ("cats", "dogs")[i % 2] / f"{i:02}.png", GREY[i])
    data = load(tmp_path)
    assert (data.shape, data.levels, data.class_names) == ((1, 6, 5), 256, ("cats", "dogs"))
    assert rows(everything(data)) == rows(GREY)
    for split in (data.train, data.valid, data.test):
        for image, label in zip(split.x, split.y, strict=True):
            assert [i % 2 for i in range(40) if np.array_equal(GREY[i], image[0])] == [label]


def test_folder_without_classes_and_its_split_never_changes(tmp_path):
    x = np.zeros((40, 2, 2), np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None]
    fill(tmp_path, x=x)
    data = load(tmp_path)
    assert data.classes is None
    assert data.train.y is None
    assert data.valid.x[:, 0, 0, 0].tolist() == FOLDER_VALID
    assert data.test.x[:, 0, 0, 0].tolist() == FOLDER_TEST
    assert sorted(everything(data)[:, 0, 0, 0]) == list(range(40))


FOLDER_VALID = [9, 32, 35]
FOLDER_TEST = [23, 27, 31]


def test_a_new_file_moves_no_other(tmp_path):
    fill(tmp_path)
    before = load(tmp_path)
    for name in ("00a.png", "zz.png", "-.png"):
        save(tmp_path / name, np.zeros((6, 5), np.uint8))
    after = load(tmp_path)
    assert len(everything(after)) == 43
    for split in ("train", "valid", "test"):
        assert set(rows(getattr(before, split).x)) <= set(rows(getattr(after, split).x))


def test_folder_with_its_own_splits(tmp_path):
    for i in range(40):
        part = "test" if i < 5 else "val" if i < 12 else "train"
        save(tmp_path / part / ("cats", "dogs")[i % 2] / f"{i:02}.png", GREY[i])
    data = load(tmp_path)
    assert data.class_names == ("cats", "dogs")
    assert rows(data.test.x) == rows(GREY[:5])
    assert rows(data.valid.x) == rows(GREY[5:12])
    assert rows(data.train.x) == rows(GREY[12:])


def test_folder_takes_only_the_missing_split_from_train(tmp_path):
    fill(tmp_path / "train")
    save(tmp_path / "test" / "a.png", GREY[0])
    data = load(tmp_path)
    assert len(data.test) == 1
    assert len(data.valid) > 0
    assert rows(np.concatenate([data.train.x, data.valid.x])) == rows(GREY)


@pytest.mark.parametrize("ending", ["jpg", "webp", "JPEG"])
def test_jpeg_and_webp_are_read_in_colour(tmp_path, ending):
    plain = np.zeros((40, 8, 8, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    fill(tmp_path, x=plain, ending=ending)
    data = load(tmp_path)
    assert data.shape == (3, 8, 8)
    assert np.abs(data.train.x.mean(axis=(0, 2, 3)) - [200, 100, 50]).max() < 4


def test_channels_are_three_unless_all_are_grey(tmp_path):
    fill(tmp_path)
    assert load(tmp_path).shape == (1, 6, 5)
    assert load(tmp_path, channels=3).shape == (3, 6, 5)
    save(tmp_path / "40.png", COLOUR[0].transpose(1, 2, 0))
    data = load(tmp_path)
    assert data.shape == (3, 6, 5)
    assert COLOUR[0].tobytes() in rows(everything(data))
    assert load(tmp_path, channels=1).shape == (1, 6, 5)


def test_size_crops_to_the_centre_and_resizes(tmp_path):
    wide = np.zeros((40, 4, 12), np.uint8)
    wide[:, :, 4:8] = 255
    fill(tmp_path, x=wide)
    assert (everything(load(tmp_path, resize=4)) == 255).all()
    save(tmp_path / "tall.png", wide[0].T)
    with pytest.raises(
        UserError, match=r"tall\.png is 4 x 12 pixels but .* is 12 x 4: give resize"
    ):
        load(tmp_path)
    data = load(tmp_path, resize=2)
    assert data.shape == (1, 2, 2)
    assert (everything(data) == 255).all()


def test_transparent_pixels_become_white(tmp_path):
    see_through = np.zeros((40, 4, 4, 4), np.uint8)
    see_through[:, 0] = [10, 20, 30, 255]
    fill(tmp_path, x=see_through)
    x = load(tmp_path).train.x
    assert x.shape[1:] == (3, 4, 4)
    assert (x[:, :, 1:] == 255).all()
    assert x[0, :, 0, 0].tolist() == [10, 20, 30]


def test_a_photograph_is_turned_by_its_orientation_tag(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    for i in range(40):
        Image.new("L", (8, 4), 60).save(tmp_path / f"{i}.jpg", exif=exif)
    assert load(tmp_path).shape == (1, 8, 4)


def test_hidden_files_are_left_out(tmp_path):
    fill(tmp_path)
    (tmp_path / "._00.png").write_bytes(b"not a picture")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "00.png").write_bytes(b"not a picture")
    assert len(everything(load(tmp_path))) == 40


def png(x):
    file = io.BytesIO()
    Image.fromarray(x).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(
    "raw", [b"", b"not a picture", png(GREY[0])[:-30], png(GREY[0])[:20], png(GREY[0])[:45] * 2]
)
def test_a_corrupt_picture_is_named(tmp_path, raw):
    fill(tmp_path)
    (tmp_path / "07.png").write_bytes(raw)
    with pytest.raises(UserError, match=r"07\.png is corrupt or no image"):
        load_unsplit(tmp_path)
    with pytest.warns(UserWarning, match=r"1 unreadable file \(07\.png\)"):
        data = load(tmp_path)
    assert len(everything(data)) == 39


def test_more_than_8_bits_are_refused(tmp_path):
    fill(tmp_path)
    Image.fromarray(GREY[0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"deep\.png has more than 8 bits"):
        load(tmp_path)


def test_folders_that_are_not_clear_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        load(tmp_path)
    fill(tmp_path, 3)
    with pytest.raises(UserError, match="no image for the"):
        load(tmp_path)
    fill(tmp_path)
    with pytest.raises(UserError, match="channels is 1 for grey or 3 for colour, not 2"):
        load(tmp_path, channels=2)
    with pytest.raises(UserError, match="resize is 0"):
        load(tmp_path, resize=0)
    fill(tmp_path / "cats")
    with pytest.raises(UserError, match="both directly and in subfolders"):
        load(tmp_path)


def test_own_data_are_requantised_too(tmp_path):
    fill(tmp_path)
    data = load(tmp_path, levels=4)
    assert data.levels == data.test.levels == 4
    assert rows(everything(data)) == rows(GREY // 64)


def test_all_images_of_a_file_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, x=NOISE, y=np.array([2, 0, 1]))
    found = load_unsplit(path, levels=4)
    np.testing.assert_array_equal(found.images.x, NOISE // 64)
    assert found.images.y is not None
    assert (found.names, found.images.y.tolist()) == (["0", "1", "2"], [2, 0, 1])
    assert found.class_names == ("0", "1", "2")
    np.savez(path, x_test=NOISE[:1], x_train=NOISE[1:])
    np.testing.assert_array_equal(load_unsplit(path).images.x, NOISE[[1, 2, 0]])


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    try:
        Image.fromarray(NOISE[0, 0]).save(tmp_path / name)
    except OSError:
        pytest.skip("the file system has no such names")
    with pytest.raises(UserError, match="not UTF-8"):
        load_unsplit(tmp_path)
