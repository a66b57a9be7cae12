"""Starting from another model's weights."""

from dataclasses import replace

import torch

from nextpixel import load
from nextpixel.training.fine_tuning import copy_weights
from tests.training.runs import make


def test_a_model_with_large_class_layers_starts_from_other_classes() -> None:
    """More than half of its weights read the classes, but they are not counted."""
    source = load("mnist-four-levels")
    arguments = source.hyperparameters | {"classes": 2}
    model = type(source)(**arguments)
    new = copy_weights(model, source, ("three", "eight"))
    assert {name.split(".")[0] for name in new} == {"condition"}
    assert torch.equal(model.get_parameter("head.3.bias"), source.get_parameter("head.3.bias"))


def test_weights_of_classes_are_copied_only_to_the_same_classes() -> None:
    source, names = make(), tuple("abcdefghij")
    torch.nn.init.normal_(source.get_parameter("condition.weight"))
    source.data_record = replace(source.data_record, class_names=names)
    for given, new in ((names, []), (None, []), (names[::-1], ["condition.weight"])):
        model = make()
        assert copy_weights(model, source, given) == new
        same = torch.equal(model.state_dict()["condition.weight"], source.condition.weight)
        assert same == (not new)
