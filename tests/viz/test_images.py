import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from nextpixel.errors import UserError
from nextpixel.viz import charts
from nextpixel.viz import images as pictures
from nextpixel.viz.images import TINT

RNG = np.random.default_rng(0)


def images(n=4, channels=1, height=5, width=6, levels=4):
    return RNG.integers(0, levels, (n, channels, height, width))


def left_over(folder):
    return sorted(p.name for p in folder.iterdir())


# Levels and colours


@pytest.mark.parametrize("levels", [2, 3, 4, 16, 255, 256])
def test_to_uint8_rounds_each_level(levels):
    expected = [round(255 * v / (levels - 1)) for v in range(levels)]
    for dtype in (np.int64, np.uint8):
        result = pictures.to_uint8(np.arange(levels).astype(dtype), levels)
        assert result.dtype == np.uint8
        assert result.tolist() == expected


def test_to_uint8_takes_tensors_lists_and_bools():
    assert pictures.to_uint8(torch.tensor([[0, 3]]), 4).tolist() == [[0, 255]]
    assert pictures.to_uint8([0, 1], 2).tolist() == [0, 255]
    assert pictures.to_uint8(np.array([False, True]), 2).tolist() == [0, 255]


@pytest.mark.parametrize("bad", [[0, 4], [-1, 0], [0.0, 0.5]])
def test_to_uint8_refuses_values_that_are_no_levels(bad):
    with pytest.raises(ValueError, match="values"):
        pictures.to_uint8(bad, 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_hide_paints_the_hidden_pixels_only(channels):
    x = images(channels=channels)
    mask = RNG.random((4, 1, 5, 6)) < 0.5
    shown = pictures.tint_unknown(x, mask, 4)
    assert shown.shape == (4, 3, 5, 6)
    assert shown.dtype == np.uint8
    known = np.broadcast_to(mask, shown.shape)
    np.testing.assert_array_equal(
        shown[known], np.broadcast_to(pictures.to_uint8(x, 4), shown.shape)[known]
    )
    hidden = shown.transpose(0, 2, 3, 1)[~mask[:, 0]]
    assert (hidden == TINT).all()
    assert len(set(TINT)) == 3  # no grey level looks like it


def test_hide_takes_no_pixels_for_a_mask():
    with pytest.raises(UserError, match="mask is made of booleans"):
        pictures.tint_unknown(images(), images(), 4)


def test_hide_takes_one_mask_for_all_and_needs_all_channels():
    x = images(channels=3)
    mask = np.ones((3, 5, 6), dtype=bool)
    mask[2, 0, 0] = False
    shown = pictures.tint_unknown(x, mask, 4)
    assert (shown[:, :, 0, 0] == TINT).all()
    np.testing.assert_array_equal(shown[:, :, 1:], pictures.to_uint8(x, 4)[:, :, 1:])


def test_heat_map_spans_the_colours():
    values = np.array([[[0.0, 5.0, 10.0, np.nan]]])
    heat = pictures.heat_map(values)
    assert heat.shape == (1, 3, 1, 4)
    assert heat.dtype == np.uint8
    colours = colormaps["magma"]([0.0, 0.5, 1.0], bytes=True)[:, :3].tolist()
    assert heat[0, :, 0].T.tolist() == [*colours, list(TINT)]


@pytest.mark.parametrize("value", [3.0, np.nan])
def test_heat_map_of_one_value_has_one_colour(value):
    heat = pictures.heat_map(np.full((2, 3, 3), value))
    assert (heat == heat[:1, :, :1, :1]).all()


def test_heat_map_refuses_another_shape():
    with pytest.raises(ValueError, match="N, H, W"):
        pictures.heat_map(np.zeros((3, 3)))


# Grids


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_grid_puts_every_pixel_in_its_place(channels, mode):
    x = images(n=5, channels=channels)
    scale, gap = 3, 2
    picture = pictures.grid(x, 4, columns=2, scale=scale, gap=gap)
    assert picture.mode == mode
    assert picture.size == (scale * (2 * (6 + gap) + gap), scale * (3 * (5 + gap) + gap))
    canvas = np.asarray(picture).reshape(picture.height, picture.width, channels)
    expected = np.full_like(canvas, canvas[0, 0, 0])
    for i, image in enumerate(pictures.to_uint8(x, 4)):
        top, left = scale * (gap + i // 2 * (5 + gap)), scale * (gap + i % 2 * (6 + gap))
        for row in range(5 * scale):
            for column in range(6 * scale):
                expected[top + row, left + column] = image[:, row // scale, column // scale]
    np.testing.assert_array_equal(canvas, expected)


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (3, 2), (4, 2), (10, 4), (100, 10)])
def test_grid_is_nearly_square(n, columns):
    picture = pictures.grid(np.zeros((n, 1, 4, 4), dtype=int), 2, scale=1, gap=0)
    assert picture.width == columns * 4


def test_grid_leaves_places_empty():
    x = images(n=3)
    picture = np.asarray(pictures.grid(x, 4, columns=2, places=[3, 0, 2], scale=1, gap=0))
    height, width = x.shape[2:]
    tiles = picture.reshape(2, height, 2, width).swapaxes(1, 2).reshape(4, height, width)
    np.testing.assert_array_equal(tiles[[3, 0, 2]], pictures.to_uint8(x, 4)[:, 0])
    assert len(np.unique(tiles[1])) == 1  # the background


def test_confusion_names_and_counts(tmp_path):
    charts.confusion_matrix([[70, 3], [0, 81]], ["cat", "dog"], tmp_path / "c.svg")
    charts.confusion_matrix([[70, 3], [0, 81]], ["cat", "dog"], tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size > (100, 100)
    text = (tmp_path / "c.svg").read_text()
    for word in ("cat", "dog", "70", "3", "81"):
        assert f"<!-- {word} -->" in text
    assert "<!-- 0 -->" not in text
    with pytest.raises(UserError, match=r"use \.png, \.svg"):
        charts.confusion_matrix([[1]], ["cat"], tmp_path / "c.jpg")


def test_grid_enlarges_small_images_only():
    widths = {
        side: pictures.grid(np.zeros((1, 1, side, side), dtype=int), 2, gap=0).width
        for side in (8, 28, 32, 64, 300)
    }
    assert widths == {8: 80, 28: 84, 32: 64, 64: 64, 300: 300}
    many = pictures.grid(np.zeros((64, 1, 28, 28), dtype=int), 2, columns=64, gap=0)
    assert many.width == 64 * 28


def test_labels_stand_next_to_the_images_and_leave_them_alone():
    x = images(n=6, height=28, width=28)
    bare = np.asarray(pictures.grid(x, 4, columns=3))
    picture = pictures.grid(
        x, 4, columns=3, row_labels=["one", "two"], column_labels=["a", "b b b b b b b b b", "c"]
    )
    canvas = np.asarray(picture)
    top, left = canvas.shape[0] - bare.shape[0], canvas.shape[1] - bare.shape[1]
    assert top > 0
    assert left > 0
    np.testing.assert_array_equal(canvas[top:, left:], bare)
    paper = canvas[0, 0]
    for column in range(3):  # each label is above its own column
        cell = canvas[:top, left + column * 87 + 3 : left + (column + 1) * 87]
        assert (cell != paper).any()
    for row in range(2):
        assert (canvas[top + row * 87 + 3 : top + (row + 1) * 87, :left] != paper).any()
    assert (canvas[:top, :left] == paper).all()


def test_a_long_word_widens_the_columns():
    x = images(n=2, height=8, width=8)
    narrow = pictures.grid(x, 4, columns=2, scale=1, column_labels=["a", "b"])
    wide = pictures.grid(x, 4, columns=2, scale=1, column_labels=["a", "internationalization"])
    assert wide.width > narrow.width + 150
    assert wide.height == narrow.height
    # Each image is in the middle of its column, under the middle of its label.
    canvas = np.asarray(wide)
    changed = np.flatnonzero((canvas[-9:-1] != canvas[0, 0]).any(axis=0))
    assert abs((changed[0] + changed[-1]) / 2 - wide.width / 2) <= 1


@pytest.mark.parametrize("labels", [{"row_labels": ["a"]}, {"column_labels": ["a", "b", "c"]}])
def test_grid_refuses_labels_that_do_not_fit(labels):
    with pytest.raises(ValueError, match="labels"):
        pictures.grid(images(), 4, columns=2, **labels)


@pytest.mark.parametrize("shape", [(2, 5, 6), (2, 2, 5, 6), (0, 1, 5, 6)])
def test_grid_refuses_another_shape(shape):
    with pytest.raises(ValueError, match="shape"):
        pictures.grid(np.zeros(shape, dtype=int), 4)


def test_side_by_side_mixes_grey_and_colour():
    x = pictures.to_uint8(images(n=2), 4)
    given = pictures.tint_unknown(x, np.arange(6) < 3, 256)
    picture = pictures.side_by_side({"x": x, "given": given}, 256, scale=4, gap=0)
    assert picture.mode == "RGB"
    canvas = np.asarray(picture)[-2 * 5 * 4 :: 4]
    width = picture.width // 2
    offset = (width - 6 * 4) // 2
    for column, stack in enumerate((np.repeat(x, 3, axis=1), given)):
        left = column * width + offset
        shown = canvas[:, left : left + 24 : 4].reshape(2, 5, 6, 3)
        np.testing.assert_array_equal(shown, stack.transpose(0, 2, 3, 1))


def test_side_by_side_of_grey_stacks_is_grey():
    assert pictures.side_by_side({"a": images(), "b": images()}, 4).mode == "L"


def test_side_by_side_refuses_stacks_that_do_not_match():
    with pytest.raises(ValueError, match="side by side"):
        pictures.side_by_side({"a": images(n=2), "b": images(n=3)}, 4)
    with pytest.raises(ValueError, match="side by side"):
        pictures.side_by_side({}, 4)


def test_growing_paints_what_is_not_drawn_yet():
    x = images(n=1, height=2, width=3)
    frames = list(pictures.sampling_frames([x] * 4, [0, 1, 4, 6], 4, scale=1, gap=0))
    for frame, done in zip(frames, [0, 1, 4, 6], strict=True):
        pixels = np.asarray(frame).reshape(6, 3)
        assert (pixels[done:] == TINT).all()
        expected = np.repeat(pictures.to_uint8(x, 4).reshape(6, 1), 3, axis=1)
        np.testing.assert_array_equal(pixels[:done], expected[:done])


def test_growing_turns_spectrograms_upright():
    x = images(n=1, height=2, width=3)
    (frame,) = pictures.sampling_frames([x], [3], 4, "a spectrogram", scale=1, gap=0)
    pixels = np.asarray(frame)
    assert pixels.shape == (3, 2, 3)  # time, of which the first half is drawn, to the right
    np.testing.assert_array_equal(pixels[:, 0, 0], pictures.to_uint8(x, 4)[0, 0, 0, ::-1])
    assert (pixels[:, 1] == TINT).all()


# Files


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.webp", "a.bmp", "a.gif"])
def test_save_image_keeps_every_pixel(tmp_path, name):
    picture = pictures.grid(images(), 4)
    path = tmp_path / "new" / "folder" / name
    pictures.save_image(picture, path)
    with Image.open(path) as again:
        np.testing.assert_array_equal(np.asarray(again.convert("L")), np.asarray(picture))
    assert left_over(path.parent) == [name]


def test_save_image_writes_jpeg_of_any_mode(tmp_path):
    for mode in ("L", "RGB", "P", "RGBA"):
        pictures.save_image(Image.new(mode, (8, 8)), tmp_path / "a.jpg")
        with Image.open(tmp_path / "a.jpg") as again:
            assert again.format == "JPEG"


@pytest.mark.parametrize("name", ["a.xyz", "a"])
def test_save_image_names_the_formats_it_knows(tmp_path, name):
    with pytest.raises(UserError, match=r"suffix.*\.png"):
        pictures.save_image(pictures.grid(images(), 4), tmp_path / name)
    assert left_over(tmp_path) == []


def moments(path):
    """Returns every frame of a GIF with its duration in milliseconds."""
    with Image.open(path) as gif:
        shown = []
        for i in range(gif.n_frames):
            gif.seek(i)
            shown.append((np.asarray(gif.convert("RGB")).astype(int), gif.info["duration"]))
        return shown, gif.info.get("loop")


@pytest.mark.parametrize("count", [2, 7, 100])
def test_save_gif_lasts_as_long_as_asked_and_loops(tmp_path, count):
    x = images(n=2, height=10, width=10)
    sites = np.linspace(0, 100, count).astype(int)
    frames = list(pictures.sampling_frames([x] * count, sites, 4, scale=2))
    pictures.save_gif(frames, tmp_path / "a.gif", seconds=4.0)
    shown, loop = moments(tmp_path / "a.gif")
    assert loop == 0
    assert len(shown) == count
    durations = [duration for _, duration in shown]
    assert sum(durations) == 4000
    assert durations[-1] == 1500
    assert max(durations[:-1]) - min(durations[:-1]) <= 10
    for frame, (pixels, _) in zip(frames, shown, strict=True):
        assert np.abs(pixels - np.asarray(frame)).max() <= 3
    assert left_over(tmp_path) == ["a.gif"]


def test_save_gif_thins_out_too_many_frames(tmp_path):
    frames = (Image.new("L", (16, 16), i % 256) for i in range(1000))
    pictures.save_gif(frames, tmp_path / "a.gif", seconds=2.5)
    shown, _ = moments(tmp_path / "a.gif")
    assert len(shown) == 51
    assert min(duration for _, duration in shown) == 20
    assert (shown[0][0] == 0).all()
    assert (shown[-1][0] == 999 % 256).all()


def test_save_gif_of_one_frame(tmp_path):
    pictures.save_gif([Image.new("RGB", (4, 4), TINT)], tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.convert("RGB").getpixel((0, 0)) == TINT


def test_save_gif_refuses_wrong_images(tmp_path):
    frame = Image.new("L", (4, 4))
    with pytest.raises(UserError, match=r"\.gif"):
        pictures.save_gif([frame], tmp_path / "a.png")
    with pytest.raises(ValueError, match="frames"):
        pictures.save_gif([], tmp_path / "a.gif")
    with pytest.raises(ValueError, match="last"):
        pictures.save_gif([frame], tmp_path / "a.gif", seconds=1.5)
    assert left_over(tmp_path) == []


# The loss curve


def records(steps=500):
    train = [{"step": i, "loss": 1.0 + 7.0 * np.exp(-i / 10), "lr": 0.1} for i in range(steps)]
    return [*train, *({"step": i, "valid": 1.1} for i in range(100, steps, 100))]


def test_loss_curve_writes_png_and_svg(tmp_path):
    charts.loss_curve(records(), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (900, 540)
        assert len(set(picture.convert("RGB").get_flattened_data())) > 10
    charts.loss_curve(records(), str(tmp_path / "a.svg"))
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    assert left_over(tmp_path) == ["a.png", "a.svg"]


@pytest.mark.parametrize(
    "few",
    [
        [{"step": 0, "loss": 8.0}],
        [{"step": 5, "valid": 1.0}],
        [{"step": 0, "loss": float("nan")}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": None}],
    ],
)
def test_loss_curve_draws_few_points(tmp_path, few):
    charts.loss_curve(few, tmp_path / "a.png")
    assert left_over(tmp_path) == ["a.png"]


def test_loss_curve_needs_a_loss_and_a_known_suffix(tmp_path):
    with pytest.raises(UserError, match="There is no loss"):
        charts.loss_curve([{"step": 1, "lr": 0.1}], tmp_path / "a.png")
    with pytest.raises(UserError, match=r"\.svg"):
        charts.loss_curve(records(), tmp_path / "a.pdf")
    assert left_over(tmp_path) == []


def test_the_limits_ignore_the_huge_start_and_keep_the_validation():
    steps, loss = charts._series(records(), "loss")
    low, high = charts._limits(steps, loss, *charts._series(records(), "valid"))
    assert 0.9 < low < 1.0
    assert 1.1 < high < 1.3
    few = charts._limits(np.arange(3.0), np.array([9.0, 8.0, 7.0]), np.zeros(0), np.zeros(0))
    assert few[0] < 7
    assert few[1] > 9


def test_smoothing_keeps_a_line_and_calms_noise():
    noise = RNG.normal(size=1000)
    assert charts._smooth(noise)[20:].std() < 0.4 * noise.std()
    np.testing.assert_allclose(charts._smooth(np.arange(200.0))[:190], np.arange(190.0))
    np.testing.assert_allclose(charts._smooth(np.full(7, 2.0)), 2.0)


def test_pictures_need_neither_torch_nor_pyplot(tmp_path):
    code = """
import sys
from nextpixel.viz import images as pictures, charts
assert "matplotlib" not in sys.modules
charts.loss_curve([{"step": 1, "loss": 2.0}], sys.argv[1])
pictures.heat_map([[[1.0, 2.0]]])
assert not {"torch", "matplotlib.pyplot"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], check=True)
