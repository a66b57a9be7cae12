"""Starting from another model's weights."""

from dataclasses import replace

import pytest
import torch

from nextpixel import load
from nextpixel.errors import UserError
from nextpixel.training.fine_tuning import copy_weights
from tests.training.runs import make


def test_a_class_takes_over_the_weights_of_the_class_of_its_name() -> None:
    source = make(classes=3)
    for name, parameter in source.named_parameters():
        if name.startswith("condition."):
            torch.nn.init.normal_(parameter)
    source.data_record = replace(source.data_record, class_names=("a", "b", "c"))
    rows = source.state_dict()["condition.weight"]
    for names, expected in ((("c", "a", "d", "e"), [2, 0, -1, -1]), (("b", "c"), [1, 2])):
        model = make(classes=len(names))
        new = copy_weights(model, source, names)
        zero = torch.zeros(1, rows.shape[1])
        own = model.state_dict()["condition.weight"]
        assert torch.equal(own, torch.cat([rows, zero])[expected])
        assert [x for x in new if x.startswith("class")] == [f"class {n}" for n in names if n > "c"]
    for names in (("a", "b", "c"), None):  # the same classes, or classes by their ids
        model = make(classes=3)
        assert copy_weights(model, source, names) == []
        assert torch.equal(model.state_dict()["condition.weight"], rows)


def test_weights_of_another_shape_keep_their_initial_values() -> None:
    source, model = make(classes=3), make(classes=5)
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter)
    assert copy_weights(model, source, None) == ["condition.weight"]
    assert not model.get_parameter("condition.weight").any()
    for name, parameter in model.named_parameters():
        if name != "condition.weight":
            assert torch.equal(parameter, source.get_parameter(name))


def test_other_kinds_and_other_arguments_are_refused() -> None:
    source = make()
    with pytest.raises(UserError, match="cannot start from a"):
        copy_weights(make(shape=(3, 7, 7)), source)
    with pytest.raises(UserError, match="Fewer than half of the weights"):
        copy_weights(make(inputs="embedded", levels=256), source)


def test_a_model_with_large_class_layers_starts_from_other_classes() -> None:
    """More than half of its weights read the classes, but they are not counted."""
    source = load("mnist-four-levels")
    arguments = source.hyperparameters | {"classes": 2}
    model = type(source)(**arguments)
    new = copy_weights(model, source, ("three", "eight"))
    assert {name.split(".")[0] for name in new} == {"condition", "class three", "class eight"}
    assert torch.equal(model.get_parameter("head.3.bias"), source.get_parameter("head.3.bias"))
