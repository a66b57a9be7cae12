"""Starting from another model's weights."""

from dataclasses import replace

import torch

from nextpixel.training.fine_tuning import copy_weights
from tests.training.runs import make


def test_weights_of_classes_are_copied_only_to_the_same_classes() -> None:
    source, names = make(), tuple("abcdefghij")
    torch.nn.init.normal_(source.get_parameter("condition.weight"))
    source.data_record = replace(source.data_record, class_names=names)
    for given, new in ((names, []), (None, []), (names[::-1], ["condition.weight"])):
        model = make()
        assert copy_weights(model, source, given) == new
        same = torch.equal(model.state_dict()["condition.weight"], source.condition.weight)
        assert same == (not new)
