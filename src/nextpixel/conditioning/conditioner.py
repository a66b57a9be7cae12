"""The protocol of conditioners, which compute a context from images, and how they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from nextpixel.conditioning.degradation import Task
from nextpixel.conditioning.features import Features
from nextpixel.errors import UserError

if TYPE_CHECKING:
    from nextpixel.data import Dataset

__all__ = ["CoarseCodes", "Conditioner", "load_conditioner"]


@runtime_checkable
class Conditioner(Protocol):
    """Computes one part of a model's context, the vector or the image, from each image.

    Attributes:
        kind: The name of its entry in `config.json`.
        part: The part of the context that it computes.
        role: The purpose of a model with this conditioner, see `ImageModel.role`.
        advice: What to do instead, where a command does not accept such a model.
    """

    @property
    def kind(self) -> str: ...  # noqa: D102  (described above)

    @property
    def part(self) -> Literal["vector", "image"]: ...  # noqa: D102

    @property
    def role(self) -> str: ...  # noqa: D102

    @property
    def advice(self) -> str: ...  # noqa: D102

    def context_size(self, data: Dataset) -> int | tuple[int, int, int]:
        """Returns the length of the vector, or the shape of the image, for a data set.

        A model is made with it as its argument `vector` or `image`.

        Raises:
            UserError: The context cannot be computed for these images.
        """

    def condition(
        self,
        x: Tensor,
        levels: int,
        numbers: Sequence[int],
        seed: int,
        coarse_codes: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Computes the context of images, and the mask of the pixels that it shows.

        Args:
            x: The images, integers in `[0, levels)`, `(B, C, H, W)`.
            levels: Number of levels.
            numbers: The index of each image in its data set.
            seed: Together with an image's number decides what is random.
            coarse_codes: Integers `(B, h, w)` where the data set has them, else None.

        Returns:
            The vectors `(B, D)` or the images `(B, Cc, Hc, Wc)`, and a mask `(B, 1, H, W)`, true at
            known pixels, or None if no pixel is known.
        """

    def settings(self) -> dict[str, Any]:
        """Returns its arguments, which JSON can hold, to make it again; without weights."""

    def in_words(self) -> str:
        """Describes the context in a few words."""


class CoarseCodes:
    """Conditions a prior over fine codes on the coarse codes of the same image.

    References:
        Razavi et al.: Generating Diverse High-Fidelity Images with VQ-VAE-2, 2019, section 3.2
        (https://arxiv.org/abs/1906.00446).
    """

    kind: ClassVar[str] = "coarse_codes"
    part: ClassVar[Literal["image"]] = "image"
    role: ClassVar[str] = "prior"
    advice: ClassVar[str] = (
        "put it, the prior over the top codes and their model into one folder (nextpixel bundle), "
        "or use nextpixel eval"
    )

    def context_size(self, data: Dataset) -> tuple[int, int, int]:
        """Returns the levels, the height and the width of the coarse codes.

        Raises:
            UserError: The data set has none.
        """
        if data.coarse_codes is None:
            raise UserError(f"{data.name} has no coarse codes: use codes:RUN#bottom of a VQ-VAE-2.")
        return data.coarse_codes

    def condition(
        self,
        x: Tensor,
        levels: int,
        numbers: Sequence[int],
        seed: int,
        coarse_codes: Tensor | None,
    ) -> tuple[Tensor, None]:
        """Returns the coarse codes as they are.

        Raises:
            UserError: There are none.
        """
        if coarse_codes is None:
            raise UserError(
                "This model is conditioned on the top codes of each image, but these images have "
                "none: use codes:RUN#bottom of a VQ-VAE-2."
            )
        return coarse_codes, None

    def settings(self) -> dict[str, Any]:
        """Returns its arguments, see `Conditioner.settings`: it has none."""
        return {}

    def in_words(self) -> str:
        """Describes the context in a few words."""
        return "the top codes"


def load_conditioner(config: dict[str, Any]) -> Conditioner | None:
    """Makes the conditioner that a `config.json` describes; None if it describes none.

    Its weights, if it has any, are loaded with those of the model.
    """
    if Task.kind in config:
        return Task(**config[Task.kind])
    if Features.kind in config:
        return Features.from_settings(config[Features.kind])
    # Before 0.2 coarse codes had no entry: they were the image of every prior that took one.
    old = "codes_of" in config and config["hyperparameters"].get("image") is not None
    return CoarseCodes() if CoarseCodes.kind in config or old else None
