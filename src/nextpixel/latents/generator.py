"""A VQ-VAE and the priors over its codes, in one folder: what draws new images together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nextpixel import sampling
from nextpixel.context import Context
from nextpixel.data.sounds import whole_blocks
from nextpixel.errors import UserError
from nextpixel.latents.codes import code_rows, mark
from nextpixel.models.base.autoregressive import AutoregressiveModel, autoregressive
from nextpixel.models.base.codebook import CodebookModel
from nextpixel.models.base.image_model import load
from nextpixel.noise import make_seed
from nextpixel.saving import bundles
from nextpixel.utils import inference
from nextpixel.utils.files import replace_file

__all__ = ["LatentGenerator", "Pixels"]

# What becomes of codes: the mean of each pixel under p(x | codes), rounded, or a draw.
Pixels = Literal["mean", "draw"]

RECORD = "bundle.json"
FORMAT = 1  # of that file
PARTS = ("decoder", "prior", "bottom-prior")  # their folders; of a VQ-VAE there is no third
BATCH = 256  # images decoded together


class LatentGenerator:
    """Puts a VQ-VAE and an autoregressive prior over its codes together.

    Args:
        decoder: The VQ-VAE, or a VQ-VAE-2.
        prior: A model that was trained on its codes, see `nextpixel.latents.codes`.
        bottom: Of a VQ-VAE-2, whose top codes `prior` draws, one that was trained on the bottom's.

    Raises:
        UserError: A prior is of other codes or of none, there are too few or too many, or the
            second needs a class that the first does not.

    Attributes:
        priors: Both priors, the top's first, or the only one.
        shape: `(C, H, W)` of an image.
        levels: A pixel is an integer in `[0, levels)`.
        classes: Number of classes that the prior is conditioned on, or None.
        data_record: The names of its classes and how its images become sounds.

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
        """Loads what `save` saved.

        Args:
            folder: Its folder, or the name of one that comes with nextpixel.
            device: Where to put the weights.
            trust: See `nextpixel.load`.

        Raises:
            UserError: There is none, or it is damaged.
        """
        digests = read_record(folder)
        parts = [load(part, device=device, trust=trust) for part in digests]
        if [model.digest() for model in parts] != list(digests.values()):
            raise UserError(
                f"What is in {folder} does not belong together (the sha256 of its parts are not "
                f"those in {RECORD}): take another copy, or bundle the models again."
            )
        decoder, *priors = parts
        if not isinstance(decoder, CodebookModel):
            raise UserError(f"The decoder in {folder} is no VQVAE: bundle the models again.")
        return cls(decoder, *(autoregressive(prior, folder) for prior in priors))

    def save(self, folder: str | Path) -> None:
        """Saves the models, each in a folder of its own, and their hashes.

        These are written last: a folder whose parts are not all new is refused, never mixed up.
        """
        models = dict(zip(PARTS, (self.decoder, *self.priors), strict=False))
        for part, model in models.items():
            model.save(Path(folder) / part)
        digests = {part: model.digest() for part, model in models.items()}
        record = json.dumps({"format": FORMAT, **digests}, indent=2)
        replace_file(Path(folder) / RECORD, f"{record}\n".encode())

    def context(self, c: object, batch: int) -> Context | None:
        """Turns what a user gave as context into one row an image, see `ImageModel.context`."""
        return self.prior.context(c, batch)

    def sample(
        self,
        n: int = 1,
        c: object = None,
        *,
        pixels: Pixels = "mean",
        seed: int = 0,
        batch_size: int = 256,
        progress: Callable[[float], None] | None = None,
        **how: Any,
    ) -> Tensor:
        """Draws images: codes from the priors, exactly, and pixels from the decoder.

        Args:
            n: Number of images.
            c: The prior's context, see `ImageModel.context`.
            pixels: See `Pixels`.
            seed: Together with an image's number decides its noise.
            batch_size: Images drawn together; it does not change the pictures.
            progress: Called with the fraction of the codes that are drawn.
            how: Other arguments of `sampling.sample`; a temperature is the codes'.

        Returns:
            Integers in `[0, levels)`, `(n, C, H, W)`, int64, on the CPU.

        Raises:
            UserError: A number is out of range, or the context does not fit.
        """
        check_pixels(pixels)
        grids: list[Tensor] = []
        for prior in self.priors:
            drawn, here = sum(grid[0].numel() for grid in grids), math.prod(prior.shape)

            def share(done: float, drawn: int = drawn, here: int = here) -> None:
                if progress is not None:
                    progress((drawn + here * done) / self.decoder.latent)

            context = self.bottom_context(c, n, grids[0]) if grids else c
            options = {"seed": seed_of(seed, len(grids)), "progress": share, **how}
            grids.append(prior.sample(n, context, batch_size=batch_size, **options)[:, 0])
        codes = self.decoder.join(grids)[:, None]
        of_pixels = seed_of(seed, len(grids))
        return self.show(codes, pixels, seed=of_pixels, numbers=how.get("numbers"))

    def bottom_context(self, c: object, n: int, top: Tensor) -> dict[str, object]:
        """Makes the bottom prior's context, with a class if it takes one; top is `(n, h, w)`."""
        context = self.prior.context(c, n)
        classes = None if context is None or not self.priors[1].classes else context.classes
        return {"classes": classes, "image": top}

    def complete(
        self,
        x: Tensor,
        mask: Tensor,
        c: object = None,
        *,
        pixels: Pixels = "mean",
        seed: int = 0,
        **how: Any,
    ) -> Tensor:
        """Keeps some of the codes of images and draws the others.

        Pixels near the kept codes' may change: a code tells of its place only on the whole. As all
        completions in raster order, codes are drawn to fit those that come before them.

        Args:
            x: Images, integers `(B, C, H, W)`.
            mask: True where a code is kept, broadcastable to `(B, h, w)`.
            c: The prior's context.
            pixels: See `Pixels`.
            seed: Together with an image's number decides its noise.
            how: Other arguments of `sampling.complete`.

        Returns:
            Integers in `[0, levels)`, `(B, C, H, W)`.

        Raises:
            UserError: Images, mask or context do not fit the models.
        """
        check_pixels(pixels)
        self.check_one_grid()
        codes = self.codes(x)
        try:
            kept = mask.expand(len(codes), *codes.shape[2:])[:, None]
        except RuntimeError:
            raise UserError(
                f"A mask of the codes has the shape {tuple(codes.shape[2:])}, or one for each "
                f"image, not {tuple(mask.shape)}."
            ) from None
        drawn = sampling.complete(self.prior, codes, kept, c, seed=seed, **how)
        return self.show(drawn, pixels, seed=seed_of(seed, 1), numbers=how.get("numbers"))

    def check_one_grid(self) -> None:
        """Refuses two grids of codes, for what is done with one only."""
        if len(self.priors) > 1:
            raise UserError(
                f"Codes of one grid are completed, and a {type(self.decoder).__name__} has two: "
                "take a VQVAE with its prior."
            )

    def sounds(self, x: Tensor, iterations: int = 32) -> list[NDArray[np.float64]]:
        """Turns images into sounds, see `Spectrogram.synthesise`.

        Args:
            x: Integers `(n, 1, frames, bands)`, as `sample` returns them.
            iterations: Of Griffin-Lim.

        Returns:
            n sounds, `(samples,)` each, with `spectrogram.rate` samples a second.

        Raises:
            UserError: The images are no spectrograms.
        """
        spectrogram = self.data_record.spectrogram
        if spectrogram is None:
            raise UserError("These models were trained on images, not on sounds: they say nothing.")
        return [spectrogram.synthesise(image, None, iterations) for image in x.numpy()]

    @property
    def end(self) -> int | None:
        """The code that says that an image has ended, see `load_codes`; None: all are whole."""
        codes = self.decoder.code_count
        return codes if self.prior.levels > codes else None

    @torch.no_grad()
    def codes(self, x: Tensor, rows: NDArray[np.int64] | None = None) -> Tensor:
        """Computes the codes of images, as the prior takes them.

        Args:
            x: Images, `(B, C, H, W)`.
            rows: How many rows of each are real, `(B,)`, where images may end. By default a sound
                ends where all is 0 from there on, after the silence that fills a block of rows.

        Returns:
            `(B, 1, h, w)`.
        """
        with inference.evaluation_mode(self.decoder):
            codes = self.decoder.codes(x.to(self.decoder.device)).cpu()
        if self.end is not None:
            if rows is None:
                heard = (x.cpu() > 0).any(3).any(1).numpy()
                last = (heard * np.arange(1, heard.shape[1] + 1)).max(1)
                rows = whole_blocks(np.maximum(last, 1), heard.shape[1])
            real, _ = code_rows(rows, self.decoder)
            ended = np.arange(codes.shape[1]) >= real[:, None]
            codes = codes.masked_fill(torch.from_numpy(ended)[:, :, None], self.end)
        return codes[:, None]

    def show(self, codes: Tensor, pixels: Pixels, **how: Any) -> Tensor:
        """Makes images of codes `(B, 1, *code_shape)`, see `Pixels`; 0 where they have ended."""
        grids, ended = codes[:, 0], None
        if self.end is not None:
            ended = (grids == self.end).any(2).cumsum(1) > 0  # (B, h)
            # A code is seen beyond its place: after the end come those of what is 0.
            grids = torch.where(ended[:, :, None], self.decoder.blank_codes().cpu(), grids)
        if pixels == "draw":
            x = self.decoder.sample(len(grids), grids, **how)
        else:
            parts = [self.decoder.picture(part) for part in torch.split(grids, BATCH)]
            x = torch.cat(parts).round().long()
        if ended is None:
            return x
        rows = ended.repeat_interleave(self.shape[1] // ended.shape[1], 1)
        return x.masked_fill(rows[:, None, :, None], 0)


def check_priors(decoder: CodebookModel, priors: list[AutoregressiveModel]) -> None:
    """Refuses priors that are not those of a model's grids of codes, in their order."""
    grids = list(decoder.sizes)
    if len(priors) != len(grids):
        wanted = "one prior" if len(grids) == 1 else "two priors, the top's and the bottom's"
        raise UserError(f"A {type(decoder).__name__} takes {wanted}, and was given {len(priors)}.")
    for grid, prior in zip(grids, priors, strict=True):
        check_prior(decoder, prior, grid)
    if priors[-1].classes not in (None, priors[0].classes):
        raise UserError(
            f"The bottom's prior is told one of {priors[-1].classes} classes, and the top's one of "
            f"{priors[0].classes or 'none'}: train both on the same."
        )


def check_prior(decoder: CodebookModel, prior: AutoregressiveModel, grid: str) -> None:
    """Refuses a prior that is not one of the codes of this grid of a model."""
    codes_of = prior.data_record.codes_of
    if codes_of is None:
        raise UserError(
            f"This {type(prior).__name__} was not trained on codes: train one by nextpixel "
            "train --data codes:RUN, RUN being the VQ-VAE's run folder."
        )
    if codes_of in [mark(decoder, other) for other in decoder.sizes if other != grid]:
        raise UserError(
            f"A prior over the {grid} codes was wanted, and this one is of the others: give the "
            "top's first, then the bottom's."
        )
    if codes_of != mark(decoder, grid):
        raise UserError(
            f"The prior was trained on the codes of another model (sha256 "
            f"{codes_of[:12]}..., this one's is {decoder.digest()[:12]}...): its numbers "
            "stand for other vectors. Train a prior on the codes of this one."
        )


def seed_of(seed: int, part: int) -> int:
    """Makes the seed of what is drawn after so many grids of codes: the next grid, or the pixels.

    With the same noise for all, what is drawn later would depend on how the first codes fell.
    """
    if part == 0:
        return seed
    return make_seed(seed, part) >> 1


def find_bundle(name: str | Path) -> Path:
    """Finds the folder of a bundle: a name that comes with nextpixel, or a path."""
    return bundles().get(str(name), Path(name))


def read_record(name: str | Path) -> dict[Path, str]:
    """Reads which models a bundle holds: their folders, the decoder's first, and their hashes.

    Raises:
        UserError: It is none, or it is damaged.
    """
    if not holds_bundle(name):
        known = ", ".join(bundles()) or "none"
        raise UserError(
            f"{name} holds no VQ-VAE with its prior: make one by nextpixel bundle VQVAE PRIOR "
            f"--out {name}, or name one that comes with nextpixel ({known})."
        )
    folder = find_bundle(name)
    file = folder / RECORD
    try:
        record = json.loads(file.read_text())
        names = PARTS if PARTS[2] in record else PARTS[:2]
        saved_format, digests = record["format"], {folder / part: record[part] for part in names}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}): take another copy.") from None
    if saved_format != FORMAT:
        raise UserError(
            f"{name} was saved in format {saved_format}, and this version of nextpixel reads "
            f"format {FORMAT}: install the version that wrote it."
        )
    return digests


def holds_bundle(name: str | Path) -> bool:
    """Tells whether a folder is one that `LatentGenerator.save` wrote."""
    return (find_bundle(name) / RECORD).is_file()


def check_pixels(pixels: Pixels) -> None:
    """Refuses what pixels cannot be, before codes are drawn."""
    if pixels not in get_args(Pixels):
        raise UserError(f"pixels are a 'mean' or a 'draw', not {pixels!r}.")
