"""Loads the images that a command works on: files, folders and data sets, from plain values."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextpixel.cli.contexts import Classes, choose_classes, class_names, in_turn, is_mix
from nextpixel.cli.loading import (
    Shape,
    is_known_name,
    load_for,
    load_named_or_own,
)
from nextpixel.cli.options import parse_numbers
from nextpixel.conditioning.regions import Half, box_mask, half_mask
from nextpixel.data import Dataset, Images
from nextpixel.data.arrays import read_idx_folder
from nextpixel.data.classes import match_classes, refuse_class
from nextpixel.data.folders import picture_names, picture_size, read_picture
from nextpixel.data.images import Unsplit
from nextpixel.data.levels import requantise
from nextpixel.data.sampler import evenly_spaced
from nextpixel.data.user_data import load_unsplit, shape_options
from nextpixel.errors import UserError
from nextpixel.model_folders import training_record
from nextpixel.models.base.image_model import Conditioning, ImageModel
from nextpixel.utils.files import user_path
from nextpixel.utils.words import count

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Pictures",
    "is_dataset",
    "known_pixels",
    "load_images",
    "load_model_images",
    "read_pictures",
]


@dataclass(frozen=True)
class Pictures:
    """The images that a command works on.

    Attributes:
        images: The images; after `fit` their class ids are the model's.
        names: The name of each image: its file's, or its number.
        class_names: A name for each class id, or None.
        what: A description, for messages and captions.
        dataset: The data set that they are a split of; None for the user's pictures.
        one_by_one: Whether the user named each file.
        mix: The weights of a mix of classes for all images, `(classes,)`; or None.
    """

    images: Images
    names: list[str]
    class_names: tuple[str, ...] | None
    what: str
    dataset: Dataset | None = None
    one_by_one: bool = False
    mix: Classes | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def unsplit(self) -> Unsplit:
        """The images with their names, as `evaluation.anomaly` takes them."""
        return Unsplit(self.images, self.names, self.class_names)

    def numbers(self, n: int | None, default: int | None) -> NDArray[np.int64]:
        """Returns the indices of n images, spread evenly.

        Args:
            n: How many; None for all if the user named each file, and else for `default`.
            default: See n; None for all.
        """
        return evenly_spaced(len(self), n or (None if self.one_by_one else default))

    def subset(self, limit: int | None) -> Pictures:
        """Returns at most `limit` of these images, spread evenly."""
        names = [self.names[i] for i in evenly_spaced(len(self), limit)]
        return replace(self, images=self.images.subset(limit), names=names)

    def fit(self, model: ImageModel, name: str, classes: str | None = None) -> Pictures:
        """Checks that the images fit a model, and translates their classes to the model's ids.

        Args:
            model: The model.
            name: Its name or folder.
            classes: The value of --class, for images without classes.

        Raises:
            UserError: Shape, levels or classes do not match, or classes are missing.
        """
        if self.dataset is not None:
            model.check_dataset(self.dataset)
        elif model.data_record.codes_of is not None:
            raise UserError(f"{name} models codes, not pixels: give it codes:RUN.")
        return self.classified(model, classes)

    def classified(self, model: ImageModel, classes: str | None) -> Pictures:
        """Returns the images with the class ids of a model, see `fit`."""
        if classes is not None and self.dataset is not None:
            raise UserError("The images of a data set already have classes: leave --class out.")
        if classes is not None:
            ids = in_turn(choose_classes(classes, model), len(self))
            assert ids is not None
            if is_mix(ids):
                return replace(self, mix=ids, images=replace(self.images, y=None))
            return replace(self, images=replace(self.images, y=ids))
        if model.classes is None:
            return self
        if self.images.y is None:
            raise UserError(
                f"This model needs the class of {self.what}: give --class, or score images without "
                "it by nextpixel score."
            )
        known = class_names(model)
        match_classes(self.images.class_names, known, self.what)  # names what it refuses
        if int(self.images.y.max(initial=0)) >= len(known) and self.images.class_names is None:
            refuse_class(str(self.images.y.max()), known, self.what)
        return replace(self, images=self.images.with_class_names(known), class_names=tuple(known))

    def inputs(self, model: ImageModel, numbers: NDArray[np.int64]) -> tuple[Tensor, Conditioning]:
        """Reads images by their indices.

        Returns:
            The images, `(B, C, H, W)`, and their conditioning.
        """
        if self.mix is None:
            return model.inputs(self.images, numbers)
        if model.conditioner is not None:
            raise UserError("This model takes one class for each image, not a mix: give --class 3.")
        x = torch.from_numpy(self.images.batch(numbers)[0])
        return x, Conditioning(model.context(self.mix, len(x)))


def load_images(
    name: str,
    shape: Shape,
    levels: int,
    images: Sequence[str] = (),
    *,
    data: str | None = None,
    data_dir: str | Path | None = None,
    split: str | None = None,
    trust: bool = False,
) -> Pictures:
    """Loads the images that a command works on.

    Args:
        name: The model's name or folder; the data that it was trained on are the default.
        shape: `(C, H, W)`; if it is square, pictures are cropped and resized to it.
        levels: Levels of a pixel.
        images: Picture files, folders of pictures and files of arrays; or one data set.
        data: A data set, if there are no `images`: a name, a path, wavs:FOLDER or codes:RUN.
        data_dir: Folder to search for data sets first.
        split: The split of a data set, or of one folder or file. None for "test" of a data set and
            for all images of folders and files.
        trust: See `nextpixel.load`, for the model of codes:RUN.

    Raises:
        UserError: There are no such images, or they cannot be brought into the shape.
    """
    if images and data is not None:
        raise UserError("Give images, or a data set to take them from: leave --data out.")
    if is_dataset(images, split):
        if len(images) > 1:
            raise UserError(
                f"{images[0]} and {images[1]} cannot be mixed: images of a data set come alone."
            )
        source = images[0] if images else data
        dataset = load_named_or_own(name, source, shape, levels, data_dir, trust=trust)
        trained_on = training_record(name).get("data") if source is None else source
        return load_split(dataset, trained_on, split or "test")
    paths = [user_path(each) for each in images]
    found = [load_pictures(path, shape, levels) for path in paths]
    warn_of_other_sizes(paths, found, shape)
    what = found[0].what if len(found) == 1 else count(sum(map(len, found)), "image")
    return replace(join_images(found), what=what)


def load_model_images(
    model: ImageModel,
    name: str,
    classes: str | None = None,
    *,
    images: Sequence[str] = (),
    data: str | None = None,
    data_dir: str | Path | None = None,
    split: str | None = None,
    trust: bool = False,
) -> Pictures:
    """Loads images and checks that they fit a model, see `load_images` and `Pictures.fit`."""
    found = load_images(
        name,
        model.shape,
        model.levels,
        images,
        data=data,
        data_dir=data_dir,
        split=split,
        trust=trust,
    )
    return found.fit(model, name, classes)


def is_dataset(images: Sequence[str], split: str | None) -> bool:
    """Checks whether IMAGES name a data set with splits (or nothing), rather than pictures."""
    named = any(is_known_name(each) or each.startswith(("codes:", "wavs:")) for each in images)
    return not images or named or split is not None


def load_split(dataset: Dataset, source: str | None, split: str) -> Pictures:
    """Returns a split of a data set; the images of a folder are named after their files."""
    images = getattr(dataset, split)
    names = None
    if source is not None and not is_known_name(source):
        names = picture_names(user_path(source), split, dataset.skipped)
    names = names or [str(i) for i in range(len(images))]
    return Pictures(images, names, dataset.class_names, f"{dataset.name} ({split})", dataset)


def load_pictures(path: Path, shape: Shape, levels: int) -> Pictures:
    """Loads a picture, all pictures of a folder, or all images of a file of arrays."""
    what = path.name or str(path)
    is_picture = path.suffix.lower() in Image.registered_extensions() and not path.is_dir()
    if path.exists() and not is_picture:
        resize, channels = shape_options(shape, path)
        found = load_unsplit(path, resize=resize, channels=channels, levels=levels)
        if found.images.x.shape[1:] != shape:
            raise UserError(shape_mismatch(str(path), found.images.x.shape[1:], shape))
        return Pictures(found.images, found.names, found.class_names, what)
    if is_picture:
        x = requantise(read_pictures([path], shape), 256, levels)
        return Pictures(Images(x, None, levels), [what], None, what, one_by_one=True)
    load_for(str(path), shape, levels)  # its error lists the data sets that there are
    raise UserError(f"There are no images {path}.")


def warn_of_other_sizes(paths: Sequence[Path], found: Sequence[Pictures], shape: Shape) -> None:
    """Warns of pictures that were cropped or resized to a model's shape, which is square then."""
    if shape[1] != shape[2]:
        return
    files: list[Path] = []
    for path, pictures in zip(paths, found, strict=True):
        if path.is_dir() and not read_idx_folder(path):
            files += [path / name for name in pictures.names]
        elif pictures.one_by_one:
            files.append(path)
    other = 0
    for file in files:
        other += picture_size(file) != (shape[2], shape[1])
    if other:
        warnings.warn(
            f"{other:,} of {count(len(files), 'picture')} had another size: cropped and resized "
            f"to {shape[2]} x {shape[1]} pixels.",
            stacklevel=3,
        )


def join_images(found: Sequence[Pictures]) -> Pictures:
    """Joins images of the same shape and levels; they have classes if all parts have."""
    if len(found) == 1:
        return found[0]
    x = np.concatenate([each.images.x for each in found])
    labels = [
        each.class_names[i]
        for each in found
        if each.class_names is not None and each.images.y is not None
        for i in each.images.y
    ]
    y, names = None, None
    named = any(each.images.class_names for each in found)  # not only ids, from arrays
    if len(labels) == len(x):
        distinct = dict.fromkeys(labels) if named else range(max(map(int, labels)) + 1)
        names = tuple(map(str, distinct))
        ids = {name: i for i, name in enumerate(names)}
        y = np.array([ids[label] for label in labels], np.int64)
    return Pictures(
        Images(x, y, found[0].images.levels, class_names=names if named else None),
        [name for each in found for name in each.names],
        names,
        count(len(x), "image"),
        one_by_one=all(each.one_by_one for each in found),
    )


def read_pictures(paths: Sequence[Path], shape: Shape) -> NDArray[np.uint8]:
    """Reads picture files of this shape as `(N, C, H, W)`; crops and resizes to a square shape."""
    channels, height, width = shape
    side = height if height == width else None
    pictures = [read_picture(path, side, channels) for path in paths]
    for path, picture in zip(paths, pictures, strict=True):
        if picture.shape != shape:
            raise UserError(shape_mismatch(str(path), picture.shape, shape))
    return np.stack(pictures)


def shape_mismatch(what: str, found: Sequence[int], shape: Shape) -> str:
    """Returns the message for images of another shape than a model's."""
    if found[0] != shape[0]:
        return (
            f"{what} has {found[0]} channels, but the model's images have {shape[0]}: convert it "
            "first."
        )
    return (
        f"{what} is {found[2]} x {found[1]} pixels, but the model's images are "
        f"{shape[2]} x {shape[1]}: resize it first."
    )


def known_pixels(
    shape: Shape,
    *,
    keep: Half | None = None,
    hide: Half | None = None,
    box: str | None = None,
    mask: Path | None = None,
) -> Tensor:
    """Makes the mask of the known pixels, `(H, W)`, from the options of `add_hidden`."""
    _, height, width = shape
    if hide:
        known = ~half_mask(hide, height, width)
    elif box:
        row, col, box_height, box_width = parse_numbers(box, 4, "--box")
        known = ~box_mask(row, col, box_height, box_width, (height, width))
    elif mask:
        picture = read_picture(mask, None, 1)[0]
        if picture.shape != (height, width):
            raise UserError(
                f"The mask {mask} is {picture.shape[1]} x {picture.shape[0]} pixels, but the "
                f"model's images are {width} x {height}: resize it first."
            )
        known = torch.from_numpy(picture < 128)
    else:
        known = half_mask(keep or "top", height, width)
    if known.all():
        raise UserError("Nothing is hidden: hide some pixels by --mask, --box, --hide or --keep.")
    return known
