"""Models that were saved before their classes moved."""

import pytest

from nextpixel.conditioning.classifier import Classifier
from nextpixel.errors import UserError
from nextpixel.models.base.autoregressive import CausalNetwork
from nextpixel.models.base.latent import CodebookModel
from nextpixel.saving import MOVED, Model, find_kind, model_name


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("nextpixel.classifier.Classifier", Classifier),
        ("nextpixel.autoregressive.CausalNetwork", CausalNetwork),
        ("nextpixel.latent.CodebookModel", CodebookModel),
    ],
)
def test_names_from_before_the_move_are_found(name: str, cls: type[Model]) -> None:
    assert find_kind(name, Model) is cls  # type: ignore[type-abstract]
    assert find_kind(model_name(cls), Model) is cls  # type: ignore[type-abstract]


def test_an_unknown_class_of_a_moved_module_is_refused() -> None:
    with pytest.raises(UserError, match="There is no model"):
        find_kind(f"{next(iter(MOVED))}.Nothing", Model)  # type: ignore[type-abstract]
