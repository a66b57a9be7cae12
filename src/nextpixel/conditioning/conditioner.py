"""The protocol of what a model is conditioned on besides a class, and how it is saved."""

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
    """What a model is conditioned on besides a class: one part of its context, for every image.

    Attributes:
        kind: Its entry in `config.json`.
        part: The part of the context that it computes.
        role: What a model with this conditioner is for, see `ImageModel.role`.
        advice: What to do with such a model where a command cannot use it.
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
        """Returns the value of a model's argument `part` for a data set.

        Raises:
            UserError: It cannot be computed for such images.
        """

    def condition(
        self,
        x: Tensor,
        levels: int,
        numbers: Sequence[int],
        seed: int,
        coarse_codes: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Computes the part of the context for images, and which of their pixels it shows.

        Args:
            x: The images, integers in `[0, levels)`, `(B, C, H, W)`.
            levels: Number of levels.
            numbers: The number of each image in its data set.
            seed: Together with an image's number decides what is random about it.
            coarse_codes: Integers `(B, h, w)` where the data set has them, else None.

        Returns:
            The part, and a mask `(B, 1, H, W)`, true at pixels that carry no bits, or None.
        """

    def settings(self) -> dict[str, Any]:
        """Returns what it takes to make it again, weights left out, as JSON holds it."""

    def in_words(self) -> str:
        """Describes in a few words what the model is given."""


class CoarseCodes:
    """The codes of a coarser grid of the same image, for a prior over the finer codes.

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
            raise UserError(
                f"{data.name} has no coarse codes: give codes:RUN#bottom of a VQ-VAE-2."
            )
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
                "This model is conditioned on the top codes of each image, and these images have "
                "none: give codes:RUN#bottom of a VQ-VAE-2."
            )
        return coarse_codes, None

    def settings(self) -> dict[str, Any]:
        """Returns what it takes to make it again: nothing."""
        return {}

    def in_words(self) -> str:
        """Describes in a few words what the model is given."""
        return "the top codes"


def load_conditioner(config: dict[str, Any]) -> Conditioner | None:
    """Makes the conditioner that a `config.json` describes, if it describes one.

    Its weights, if it has any, are loaded with the model's.
    """
    if Task.kind in config:
        return Task(**config[Task.kind])
    if Features.kind in config:
        return Features.from_settings(config[Features.kind])
    # Models saved before coarse codes had an entry are told by their codes and their image.
    is_prior_with_image = "codes_of" in config and config["hyperparameters"].get("image")
    return CoarseCodes() if CoarseCodes.kind in config or is_prior_with_image else None
