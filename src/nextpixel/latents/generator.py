"""The two-stage generator: a VQ-VAE and the priors over its codes, saved in one folder."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Unpack, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nextpixel import sampling
from nextpixel.context import Context, ContextLike, ContextPart
from nextpixel.data.pictures import ImagesLike, to_model_images
from nextpixel.data.sounds import whole_blocks
from nextpixel.errors import UserError
from nextpixel.latents.codes import code_rows, codes_digest
from nextpixel.model_folders import bundles
from nextpixel.models.base.autoregressive import AutoregressiveModel, autoregressive
from nextpixel.models.base.codebook import CodebookModel
from nextpixel.models.base.image_model import load
from nextpixel.noise import make_seed
from nextpixel.sampling.config import CompleteOptions, MaskLike, as_mask
from nextpixel.utils import inference
from nextpixel.utils.files import replace_file
from nextpixel.utils.reading import mapping, read_json, refusing_damage

__all__ = ["LatentGenerator", "Pixels"]

# How codes become pixels: the rounded mean of each pixel under p(x | codes), or a sample.
Pixels = Literal["mean", "draw"]

RECORD = "bundle.json"
FORMAT = 1  # of that file
PARTS = ("decoder", "prior", "bottom-prior")  # folders; only a VQ-VAE-2 has the third
BATCH = 256  # images decoded together


class LatentGenerator:
    """Samples images with a VQ-VAE and autoregressive priors over its codes.

    Args:
        decoder: A VQ-VAE or a VQ-VAE-2.
        prior: A model trained on its codes (the top codes), see `nextpixel.latents.codes`.
        bottom: For a VQ-VAE-2: a model trained on the bottom codes.

    Raises:
        UserError: A prior was trained on other data, there are too few or too many, or the second
            needs a class and the first does not.

    Attributes:
        priors: The priors, the top's first.
        shape: `(C, H, W)` of an image.
        levels: A pixel is an integer in `[0, levels)`.
        classes: Number of classes that the prior is conditioned on, or None.
        data_record: The names of its classes and the settings of its spectrograms.

    References:
        van den Oord, Vinyals, Kavukcuoglu: Neural Discrete Representation Learning, 2017
        (https://arxiv.org/abs/1711.00937).
        Razavi, van den Oord, Vinyals: Generating Diverse High-Fidelity Images with VQ-VAE-2, 2019
        (https://arxiv.org/abs/1906.00446).

    Example:
        >>> generator = LatentGenerator.load("runs/vq-mnist")
        >>> pictures = generator.sample(16, c=3, seed=0)  # (16, 1, 28, 28)
        >>> speaker = LatentGenerator.load("spoken-digits")
        >>> three = speaker.data_record.class_names.index("3 theo")
        >>> waves = speaker.sounds(speaker.sample(4, c=three))
    """

    def __init__(
        self,
        decoder: CodebookModel,
        prior: AutoregressiveModel,
        bottom: AutoregressiveModel | None = None,
    ) -> None:
        self.priors = [prior] if bottom is None else [prior, bottom]
        check_priors(decoder, self.priors)
        for model in (decoder, *self.priors):
            model.eval()
        self.decoder, self.prior = decoder, prior
        self.shape, self.levels, self.classes = decoder.shape, decoder.levels, prior.classes
        self.data_record = replace(
            prior.data_record, spectrogram=decoder.data_record.spectrogram, codes_of=None
        )

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str | torch.device = "cpu", trust: bool = False
    ) -> LatentGenerator:
        """Loads a generator that `save` saved.

        Args:
            folder: Its folder, or the name of a pretrained one.
            device: The device of the weights.
            trust: See `nextpixel.load`.

        Raises:
            UserError: There is none, or it is damaged.
        """
        digests = read_record(folder)
        parts = [load(part, device=device, trust=trust) for part in digests]
        if [model.digest() for model in parts] != list(digests.values()):
            raise UserError(
                f"The models in {folder} do not belong together (their sha256 differ from those in "
                f"{RECORD}): take another copy, or bundle the models again."
            )
        decoder, *priors = parts
        if not isinstance(decoder, CodebookModel):
            raise UserError(f"The decoder in {folder} is not a VQ-VAE: bundle the models again.")
        return cls(decoder, *(autoregressive(prior, folder) for prior in priors))

    def save(self, folder: str | Path) -> None:
        """Saves each model in a folder of its own, and their hashes.

        The hashes are written last, so a folder with old and new parts does not load.
        """
        models = dict(zip(PARTS, (self.decoder, *self.priors), strict=False))
        for part, model in models.items():
            model.save(Path(folder) / part)
        digests = {part: model.digest() for part, model in models.items()}
        record = json.dumps({"format": FORMAT, **digests}, indent=2)
        replace_file(Path(folder) / RECORD, f"{record}\n".encode())

    def context(self, c: ContextLike, batch: int) -> Context | None:
        """Turns a user's context into one row for each image, see `ImageModel.context`."""
        return self.prior.context(c, batch)

    def sample(
        self,
        n: int = 1,
        c: ContextLike = None,
        *,
        pixels: Pixels = "mean",
        **how: Unpack[CompleteOptions],
    ) -> Tensor:
        """Samples codes from the priors, exactly, and decodes them.

        Args:
            n: Number of images.
            c: The prior's context, see `ImageModel.context`.
            pixels: See `Pixels`.
            how: The options of `sampling.sample`, for the codes. Drawn pixels get a seed of their
                own, made from this one.

        Returns:
            Integers in `[0, levels)`, `(n, C, H, W)`, int64, on the CPU.

        Raises:
            UserError: A number is out of range, or the context does not fit.
        """
        check_pixels(pixels)
        seed, progress = how.get("seed", 0), how.get("progress")
        grids: list[Tensor] = []
        for prior in self.priors:
            sampled, size = sum(grid[0].numel() for grid in grids), math.prod(prior.shape)

            def report(done: float, sampled: int = sampled, size: int = size) -> None:
                if progress is not None:
                    progress((sampled + size * done) / self.decoder.latent)

            context = self.bottom_context(c, n, grids[0]) if grids else c
            of_grid = part_seed(seed, len(grids))
            options: CompleteOptions = {**how, "seed": of_grid, "progress": report}
            grids.append(prior.sample(n, context, **options)[:, 0])
        codes, seed = self.decoder.join(grids)[:, None], part_seed(seed, len(grids))
        return self.decode(codes, pixels, seed=seed, numbers=how.get("numbers"))

    def bottom_context(self, c: ContextLike, n: int, top: Tensor) -> dict[str, ContextPart | None]:
        """Makes the bottom prior's context from the top codes `(n, h, w)`, with a class if any."""
        context = self.prior.context(c, n)
        classes = None if context is None or not self.priors[1].classes else context.classes
        return {"classes": classes, "image": top}

    def complete(
        self,
        x: ImagesLike,
        mask: MaskLike,
        c: ContextLike = None,
        *,
        pixels: Pixels = "mean",
        **how: Unpack[CompleteOptions],
    ) -> Tensor:
        """Keeps some of the codes of images and samples the others.

        Pixels at known codes may change too, because each pixel depends on several codes. As in any
        completion in raster order, codes are sampled given those before them.

        Args:
            x: Images, integers `(B, C, H, W)`; or pictures, see `nextpixel.to_images`.
            mask: True where a code is known, broadcastable to `(B, h, w)`.
            c: The prior's context.
            pixels: See `Pixels`.
            how: See `sample`.

        Returns:
            Integers in `[0, levels)`, `(B, C, H, W)`.

        Raises:
            UserError: Images, mask or context do not fit the models.
        """
        x, mask = to_model_images(x, self.shape, self.levels), as_mask(mask)
        check_pixels(pixels)
        self.check_one_grid()
        codes = self.codes(x)
        try:
            known = mask.expand(len(codes), *codes.shape[2:])[:, None]
        except RuntimeError:
            raise UserError(
                f"A mask of the codes has the shape {tuple(codes.shape[2:])}, or one for each "
                f"image, not {tuple(mask.shape)}."
            ) from None
        completed = sampling.complete(self.prior, codes, known, c, **how)
        seed = part_seed(how.get("seed", 0), 1)
        return self.decode(completed, pixels, seed=seed, numbers=how.get("numbers"))

    def check_one_grid(self) -> None:
        """Checks that there is only one grid of codes, which completion needs."""
        if len(self.priors) > 1:
            raise UserError(
                f"Only codes of one grid can be completed, and a {type(self.decoder).__name__} has "
                "two: give a VQVAE with its prior."
            )

    def sounds(self, x: Tensor, iterations: int = 32) -> list[NDArray[np.float64]]:
        """Turns images into sounds, see `Spectrogram.synthesise`.

        Args:
            x: Integers `(n, 1, frames, bands)`, as `sample` returns them.
            iterations: Number of iterations of Griffin-Lim.

        Returns:
            n sounds, `(samples,)` each, with `spectrogram.rate` samples per second.

        Raises:
            UserError: The images are not spectrograms.
        """
        spectrogram = self.data_record.spectrogram
        if spectrogram is None:
            raise UserError("This model was trained on images, not on sounds: give one of sounds.")
        return [spectrogram.synthesise(image, None, iterations) for image in x.numpy()]

    @property
    def end_code(self) -> int | None:
        """The code that ends an image, see `load_codes`; None if images have no padding."""
        count = self.decoder.code_count
        return count if self.prior.levels > count else None

    @torch.no_grad()
    def codes(self, x: ImagesLike, rows: NDArray[np.int64] | None = None) -> Tensor:
        """Computes the codes of images, in the form that the prior is trained on.

        Args:
            x: Images, integers `(B, C, H, W)`; or pictures, see `nextpixel.to_images`.
            rows: Number of real rows of each image, `(B,)`, if images have padding. By default the
                padding is the trailing rows of 0, except those that fill the last block of rows.

        Returns:
            `(B, 1, h, w)`.
        """
        x = to_model_images(x, self.shape, self.levels)
        with inference.evaluation_mode(self.decoder) as decoder:
            codes = decoder.codes(x.to(decoder.device)).cpu()
        if self.end_code is not None:
            if rows is None:
                audible = (x.cpu() > 0).any(3).any(1).numpy()
                last = (audible * np.arange(1, audible.shape[1] + 1)).max(1)
                rows = whole_blocks(np.maximum(last, 1), audible.shape[1])
            real, _ = code_rows(rows, self.decoder)
            ended = np.arange(codes.shape[1]) >= real[:, None]
            codes = codes.masked_fill(torch.from_numpy(ended)[:, :, None], self.end_code)
        return codes[:, None]

    def decode(
        self,
        codes: Tensor,
        pixels: Pixels = "mean",
        *,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
    ) -> Tensor:
        """Decodes codes to images, with 0 after their end.

        Args:
            codes: Integers `(B, 1, *code_shape)`.
            pixels: See `Pixels`.
            seed: Together with an image's number decides the noise of its pixels.
            numbers: The number of each image; 0 to B - 1 by default.

        Returns:
            Integers in `[0, levels)`, `(B, C, H, W)`, int64, on the CPU.
        """
        grids, ended = codes[:, 0], None
        if self.end_code is not None:
            ended = (grids == self.end_code).any(2).cumsum(1) > 0  # (B, h)
            # Pixels depend on codes nearby, so the end is filled with the codes of blank pixels.
            grids = torch.where(ended[:, :, None], self.decoder.blank_codes().cpu(), grids)
        if pixels == "draw":
            x = self.decoder.sample(len(grids), grids, seed=seed, numbers=numbers)
        else:
            parts = [self.decoder.picture(part) for part in torch.split(grids, BATCH)]
            x = torch.cat(parts).round().long()
        if ended is None:
            return x
        rows = ended.repeat_interleave(self.shape[1] // ended.shape[1], 1)
        return x.masked_fill(rows[:, None, :, None], 0)


def check_priors(decoder: CodebookModel, priors: list[AutoregressiveModel]) -> None:
    """Checks that there is a prior for each grid of codes, in their order.

    Raises:
        UserError: There is not, or their classes do not match.
    """
    grids = list(decoder.sizes)
    if len(priors) != len(grids):
        needed = "one prior" if len(grids) == 1 else "two priors, the top's and the bottom's"
        raise UserError(f"A {type(decoder).__name__} takes {needed}, not {len(priors)}.")
    for grid, prior in zip(grids, priors, strict=True):
        check_prior(decoder, prior, grid)
    if priors[-1].classes not in (None, priors[0].classes):
        raise UserError(
            f"The bottom's prior has {priors[-1].classes} classes, and the top's has "
            f"{priors[0].classes or 'none'}: train both with the same classes."
        )


def check_prior(decoder: CodebookModel, prior: AutoregressiveModel, grid: str) -> None:
    """Checks that a prior was trained on the codes of this grid of a model.

    Raises:
        UserError: It was not.
    """
    codes_of = prior.data_record.codes_of
    if codes_of is None:
        raise UserError(
            f"This {type(prior).__name__} was not trained on codes: train one with nextpixel "
            "train --data codes:RUN, where RUN is the VQ-VAE's run folder."
        )
    if codes_of in [codes_digest(decoder, other) for other in decoder.sizes if other != grid]:
        raise UserError(
            f"A prior over the {grid} codes is needed, and this one is over the other grid: give "
            "the top's first, then the bottom's."
        )
    if codes_of != codes_digest(decoder, grid):
        raise UserError(
            f"The prior was trained on the codes of another model (sha256 "
            f"{codes_of[:12]}..., this one's is {decoder.digest()[:12]}...): train a prior on the "
            "codes of this one."
        )


def part_seed(seed: int, part: int) -> int:
    """Makes the seed of a part: grids of codes are parts 0 and 1, and the pixels come last.

    With one seed for all parts, their noise would be the same and the parts would be correlated.
    """
    if part == 0:
        return seed
    return make_seed(seed, part) >> 1


def find_bundle(name: str | Path) -> Path:
    """Finds the folder of a bundle by its path or the name of a pretrained one."""
    return bundles().get(str(name), Path(name))


def read_record(name: str | Path) -> dict[Path, str]:
    """Reads the folders of a bundle's models, the decoder's first, and their hashes.

    Raises:
        UserError: There is no such bundle, or it is damaged.
    """
    if not holds_bundle(name):
        known = ", ".join(bundles()) or "none"
        raise UserError(
            f"{name} holds no VQ-VAE with its prior: make one with nextpixel bundle VQVAE PRIOR "
            f"--out FOLDER, or name a pretrained one ({known})."
        )
    folder = find_bundle(name)
    file = folder / RECORD
    with refusing_damage(file, "record of a bundle", "take another copy"):
        record = mapping(read_json(file))
        names = PARTS if PARTS[2] in record else PARTS[:2]
        saved_format, digests = record["format"], {folder / part: record[part] for part in names}
    if saved_format != FORMAT:
        raise UserError(
            f"{name} was saved in format {saved_format}, and this version of nextpixel reads "
            f"format {FORMAT}: install the version that wrote it."
        )
    return digests


def holds_bundle(name: str | Path) -> bool:
    """Checks whether `LatentGenerator.save` wrote a folder."""
    return (find_bundle(name) / RECORD).is_file()


def check_pixels(pixels: Pixels) -> None:
    """Checks the option `pixels`, before codes are sampled."""
    if pixels not in get_args(Pixels):
        raise UserError(f"pixels must be 'mean' or 'draw', not {pixels!r}.")
