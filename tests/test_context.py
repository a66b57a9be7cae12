"""Contexts: what may be given, the null context, and guidance."""

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor

from nextpixel.context import PARTS, Context, ContextSpec
from nextpixel.data import DataRecord
from nextpixel.distributions import Categorical, guided
from nextpixel.errors import UserError
from nextpixel.models import GatedPixelCNN, PixelCNNPP
from nextpixel.nn.context_bias import ContextBias, ImageFeatures
from nextpixel.sampling import Sampler

ALL = ContextSpec(classes=3, vector=2, image=(1, 2, 4))


def model(**arguments: Any) -> GatedPixelCNN:
    torch.manual_seed(0)
    made = GatedPixelCNN(shape=(1, 5, 6), levels=4, width=6, blocks=2, kernel_size=3, **arguments)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.double().eval()


def everything() -> dict[str, Any]:
    return {
        "classes": torch.tensor([2, 0]),
        "vector": torch.randn(2, 2),
        "image": torch.randn(2, 1, 2, 4),
    }


# --- what may be given ----------------------------------------------------------------------------


def test_parts_are_read_together() -> None:
    given = everything()
    context = ALL.read(given, 2)
    assert context is not None
    assert context.classes is not None
    assert context.classes.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert torch.equal(context.vector, given["vector"])  # type: ignore[arg-type]
    assert torch.equal(context.image, given["image"])  # type: ignore[arg-type]
    assert context.present.tolist() == [1, 1]
    assert ALL.read(context, 2) is context


def test_one_for_all_images() -> None:
    context = ALL.read({"classes": 1, "vector": torch.ones(2), "image": torch.zeros(1, 2, 4)}, 3)
    assert context is not None
    assert context.classes is not None
    assert context.classes.tolist() == [[0, 1, 0]] * 3
    assert context.vector is not None
    assert context.vector.shape == (3, 2)
    assert context.image is not None
    assert context.image.shape == (3, 1, 2, 4)


def test_any_mapping_names_the_parts() -> None:
    given = everything()
    context, same = ALL.read(given, 2), ALL.read(MappingProxyType(given), 2)
    assert context is not None
    assert same is not None
    assert context.order is same.order is None
    for name in ("present", *PARTS):
        assert torch.equal(vars(context)[name], vars(same)[name])


def test_images_are_picked_out_and_put_together() -> None:
    context = ALL.read(everything(), 2)
    assert context is not None
    both = context[1:].cat(context[torch.tensor([0, 0])])
    assert len(both) == 3
    assert torch.equal(both.image, context.image[[1, 0, 0]])  # type: ignore[index,arg-type]
    assert both.classes.argmax(1).tolist() == [0, 2, 2]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("takes", "c", "message"),
    [
        (ContextSpec(), 1, "unconditional"),
        (ContextSpec(classes=3), None, "needs a class from 0 to 2 .* given nothing"),
        (ContextSpec(classes=3), {"vector": 1}, "given vector"),
        (ContextSpec(classes=3), "none", "null"),
        (ContextSpec(classes=3), [[1, 0, 0], [1, 0, 0], [0, 1, 0]], "one class id"),
        (ContextSpec(classes=3), torch.ones(2, 4), "Class weights are"),
        (ContextSpec(classes=3), object(), "made of numbers"),
        (ContextSpec(classes=2), torch.tensor([1.0, 1.0]), "sum to 1, but some sum to 2"),
        (ContextSpec(classes=2), torch.zeros(2), "sum to 1, but some sum to 0"),
        (ContextSpec(classes=3), torch.tensor([1.5, -0.5, 0.0]), "one is negative"),
        (ContextSpec(classes=3), np.array([[0.5, 0.5, 0.0], [0.5, 0.0, 0.0]]), "some sum to 0.5"),
        (ContextSpec(vector=4), torch.ones(3), r"A context vector is \(2, 4\) or \(4,\)"),
        (
            ContextSpec(vector=2),
            torch.tensor([1, 2]),
            r"real numbers, not \(2,\) of torch.int64",
        ),
        (ContextSpec(vector=2), torch.tensor([1.0, torch.nan]), "finite"),
        (ContextSpec(image=(1, 2, 4)), torch.ones(2, 1, 4, 2), "A context image is"),
        (
            ContextSpec(vector=4, image=(1, 2, 4)),
            torch.ones(4),
            'give c={"vector": ..., "image": ...}',
        ),
        (ALL, {"classes": 1}, "a class from 0 to 2 and a vector of 2 numbers and an image"),
        (ContextSpec(classes=3), Context(torch.ones(3), torch.ones(3, 3)), "other images"),
        (ContextSpec(classes=3), Context(torch.ones(2), None, torch.ones(2, 3)), "another model"),
    ],
)
def test_wrong_contexts_are_refused(takes: ContextSpec, c: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        takes.read(c, 2)


def test_float_ids_are_not_taken_for_one_mix() -> None:
    ids = torch.tensor([0, 2, 1])
    right = ContextSpec(classes=3).read(ids, 3)
    assert right is not None
    assert right.classes.argmax(1).tolist() == [0, 2, 1]  # type: ignore[union-attr]
    with pytest.raises(UserError, match="give class ids as integers"):
        ContextSpec(classes=3).read(ids.float(), 3)


def test_weights_are_written_with_a_few_digits() -> None:
    mix = ContextSpec(classes=3).read([0.333, 0.333, 0.333], 2)
    assert mix is not None
    assert torch.equal(mix.classes, torch.full((2, 3), 0.333))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"vector": 0}, "at least 1 number"), ({"image": (1, 0, 4)}, "channels, height, width")],
)
def test_impossible_contexts_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model(**arguments)


# --- what they add --------------------------------------------------------------------------------


def test_training_starts_from_the_unconditional_model() -> None:
    bias = ContextBias(ALL, [3, 2], (4, 6), [1, 2])
    for part in bias(ALL.read(everything(), 2)):
        assert not part.any()


def test_biases_of_rows_and_scales() -> None:
    """A layer at half the size gets every other site; a row is that row of the maps."""
    torch.manual_seed(0)
    bias = ContextBias(ALL, [3, 2], (5, 6), [1, 2])
    for parameter in bias.parameters():
        torch.nn.init.normal_(parameter)
    prepared = bias.prepare(ALL.read(everything(), 2))
    fine, coarse = bias.biases(prepared)
    assert fine is not None
    assert coarse is not None
    assert (fine.shape, coarse.shape) == ((2, 3, 5, 6), (2, 2, 3, 3))
    for row in (0, 2, 4):
        of_row = bias.biases(prepared, row)
        torch.testing.assert_close(of_row[0], fine[:, :, row : row + 1])
        torch.testing.assert_close(of_row[1], coarse[:, :, row // 2 : row // 2 + 1])


def test_biases_by_hand() -> None:
    """Of layers with 3 and 2 channels: a row of each matrix, and a constant at its end."""
    torch.manual_seed(0)
    bias = ContextBias(ALL, [3, 2], (5, 6)).double()
    for parameter in bias.parameters():
        torch.nn.init.normal_(parameter)
    assert bias.weight is not None
    assert bias.vector_weight is not None
    assert bias.map_weight is not None
    assert bias.image_features is not None
    given = {
        name: part.double() if part.is_floating_point() else part
        for name, part in everything().items()
    }
    maps = bias.image_features(given["image"])
    assert maps.shape == (2, 64, 5, 6)
    layers = bias(ALL.read(given, 2))
    found = torch.cat([part for part in layers if part is not None], 1)
    assert [None if part is None else part.shape[1] for part in layers] == [3, 2]
    for image in range(2):
        for channel in range(5):
            expected = bias.weight[given["classes"][image], channel]
            for i in range(2):
                expected = expected + given["vector"][image, i] * bias.vector_weight[i, channel]
            expected = expected + bias.vector_weight[2, channel] + bias.map_weight[channel, 64]
            of_map = (maps[image] * bias.map_weight[channel, :64]).sum(0)
            torch.testing.assert_close(found[image, channel], expected + of_map)


def test_features_of_an_image_by_hand() -> None:
    torch.manual_seed(0)
    features = ImageFeatures(2, 8, (4, 12)).double()
    image = torch.randn(2, 2, 8, 6).double()
    first = F.conv2d(image, features.first.weight, features.first.bias, padding=1)
    h = first.unflatten(2, (4, 2)).mean(3).repeat_interleave(2, 3)  # pixels averaged and repeated
    assert len(features.layers) == 5
    for layer, dilation in zip(features.layers, (1, 2, 4, 8, 16), strict=True):
        look, mix = layer.look, layer.mix
        inner = F.conv2d(
            h.relu(),
            look.weight,
            look.bias,
            padding=dilation,
            dilation=dilation,  # type: ignore
        )
        h = h + F.conv2d(inner.relu(), mix.weight, mix.bias)  # type: ignore
    h = h - h.mean((2, 3), keepdim=True)
    expected = h / (h.square().mean((2, 3), keepdim=True) + 1e-5).sqrt() / 8**0.5
    torch.testing.assert_close(features(image), expected)


def test_what_is_spatial_is_an_image_with_the_same_pixel_everywhere() -> None:
    for takes, size in ((ALL, (2, 4)), (ALL._replace(image=None), (1, 1))):
        bias = ContextBias(takes, [3], (5, 6), spatial=True)
        given = everything()
        if takes.image is None:
            del given["image"]
        context = takes.read(given, 2)
        assert context is not None
        planes = bias.planes(context)
        assert planes.shape == (2, 5 + (takes.image is not None), *size)
        if takes.image is not None:
            assert torch.equal(planes[:, :1], given["image"])
        for image, one_hot in enumerate(([0, 0, 1], [1, 0, 0])):
            for row in range(size[0]):
                for col in range(size[1]):
                    pixel = planes[image, -5:, row, col].tolist()
                    assert pixel == [*one_hot, *given["vector"][image].tolist()]
        assert bias.image_features is not None
        assert bias.image_features.first.weight.shape == (64, planes.shape[1], 3, 3)


def test_features_of_an_image_have_length_1() -> None:
    """In the mean over the sites; more would saturate the gates of all layers."""
    torch.manual_seed(0)
    for width in (8, 32):
        features = ImageFeatures(2, width, (6, 5)).double()
        squares = features(torch.randn(3, 2, 4, 4).double()).square().sum(1).mean((1, 2))
        torch.testing.assert_close(squares, torch.ones(3).double(), rtol=1e-3, atol=0)


def test_the_null_context_adds_nothing() -> None:
    net = model(classes=3, vector=2, image=(1, 2, 4))
    plain = model()
    plain.load_state_dict(net.state_dict(), strict=False)
    x = torch.randint(4, (2, 1, 5, 6))
    torch.testing.assert_close(net.log_prob(x, "null"), plain.log_prob(x), rtol=0, atol=1e-12)
    context = net.context(everything(), 2)
    assert context is not None
    mixed = net.log_prob(x, context.null(torch.tensor([False, True])))
    torch.testing.assert_close(mixed[0], net.log_prob(x, context)[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed[1], plain.log_prob(x)[1], rtol=0, atol=1e-12)
    assert not torch.isclose(mixed[0], plain.log_prob(x)[0])


# --- guidance -------------------------------------------------------------------------------------


def test_guidance_by_hand() -> None:
    given, null = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.2, 0.2, 0.6])
    both = Categorical(torch.stack([given, null]).log())
    for guidance in (0.0, 1.0, 2.5):
        expected = null * (given / null) ** guidance
        pmf = guided(both, guidance).pmf()
        torch.testing.assert_close(pmf, (expected / expected.sum())[None].double())


@pytest.mark.parametrize("cls", [GatedPixelCNN, PixelCNNPP])
def test_guided_pictures(cls: type) -> None:
    """Guidance 0 draws from the null context, more than 1 by all samplers the same picture."""
    torch.manual_seed(0)
    net = cls(shape=(2, 4, 5), levels=5, width=8, blocks=2, classes=3, image=(1, 2, 2))
    for name, parameter in net.named_parameters():
        if name.startswith("condition"):
            torch.nn.init.normal_(parameter, std=0.5)
    c = {"classes": torch.tensor([0, 1, 2]), "image": torch.randn(3, 1, 2, 2)}

    def draw(guidance: float, c: object = c, sampler: Sampler = "auto") -> Tensor:
        return net.sample(3, c, guidance=guidance, sampler=sampler, seed=4)

    assert torch.equal(draw(0.0), draw(1.0, "null"))
    assert torch.equal(draw(1.0), net.sample(3, c, seed=4))
    strong = draw(4.0)
    assert not torch.equal(strong, draw(1.0))
    for sampler in ("engine", "cached", "full", "fixed-point"):
        assert torch.equal(draw(4.0, sampler=sampler), strong), sampler
    assert torch.equal(net.sample(3, c, guidance=4.0, seed=4, batch_size=2), strong)


def test_guidance_needs_a_context() -> None:
    with pytest.raises(UserError, match="unconditional"):
        model().sample(1, guidance=2.0)
    with pytest.raises(UserError, match="at least 0"):
        model(classes=3).sample(1, 0, guidance=-1.0)


def test_several_processes_can_be_given_a_context() -> None:
    """Where Fabric wraps a model for several processes, it maps over all that it is given."""
    context = Context(torch.ones(2), classes=torch.eye(2))
    again = MixedPrecision("bf16-mixed", "cpu").convert_input(context)
    assert isinstance(again, Context)
    assert torch.equal(again.classes, context.classes)


def test_classes_by_their_names() -> None:
    spec, names = ContextSpec(classes=3), ("cat", "dog", "stop sign")
    for c, ids in (("dog", [1, 1]), (["stop sign", "cat"], [2, 0]), ({"classes": "dog"}, [1, 1])):
        context = spec.read(c, 2, names)
        assert context is not None
        assert context.classes is not None
        assert context.classes.argmax(1).tolist() == ids
    with pytest.raises(UserError, match="no class 'cow': give one of cat, dog, stop sign"):
        spec.read("cow", 2, names)
    with pytest.raises(UserError, match="no class 'cat': give an id"):
        spec.read(["cat"], 2)
    named = model(classes=3)
    named.data_record = DataRecord(class_names=names)
    assert torch.equal(named.sample(2, "dog", seed=1), named.sample(2, 1, seed=1))
