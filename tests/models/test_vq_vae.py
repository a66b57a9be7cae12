"""VQ-VAE: codes of images, and their decoder."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nextpixel.errors import UserError
from nextpixel.models import VQVAE
from nextpixel.models.base.image_model import load
from nextpixel.tasks.reconstruction import draw_reconstructions
from tests.helpers import random_images, randomize

VARIANTS: list[dict[str, Any]] = [
    {"downsampling": 2, "shape": (1, 6, 10)},
    {"shape": (3, 8, 12), "levels": 5, "likelihood": "categorical"},
    {"downsampling": 8, "shape": (3, 16, 8), "levels": 256, "codebook": "loss"},
]
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: str(v["shape"]))


def make(**arguments: Any) -> VQVAE:
    """A small model with random weights everywhere, in float64."""
    torch.manual_seed(0)
    defaults = {"shape": (1, 8, 12), "levels": 2, "width": 4, "codes": 7, "code_size": 3}
    model = VQVAE(**{**defaults, **arguments}).double()
    randomize(model)
    model.quantizer.codebook.data.mul_(0.3)
    return model.eval()


@every_variant
def test_shapes_and_gradients(variant: dict[str, Any]) -> None:
    model = make(**variant)
    x = random_images(model)
    codes = model.codes(x)
    size = tuple(side // variant.get("downsampling", 4) for side in model.shape[1:])
    assert (codes.shape, codes.dtype) == ((4, *size), torch.int64)
    assert 0 <= codes.min() < codes.max() < 7
    assert model.latent == math.prod(size)
    assert model.score(x).shape == (4,)
    model.objective(x).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    drawn = model.reconstruct(x, draws=2, seed=3)
    assert (drawn.shape, drawn.dtype) == ((2, *x.shape), torch.int64)
    shown = model.picture(codes)
    assert shown.shape == x.shape
    assert 0 <= shown.min() <= shown.max() <= model.levels - 1
    assert draw_reconstructions(model, x, draws=1).height > 0


@every_variant
def test_score_is_that_of_the_pixels_given_the_codes(variant: dict[str, Any]) -> None:
    model = make(**variant)
    x = random_images(model)
    of_sites = model.decode(model.codes(x)).log_prob(x)
    assert of_sites.shape == x.shape
    torch.testing.assert_close(model.score(x), of_sites.flatten(1).sum(1))
    known = torch.zeros(1, 1, *model.shape[1:], dtype=torch.bool)
    known[..., 0] = True  # no code is known to its last pixel
    rest = of_sites[..., 1:].flatten(1).sum(1)
    torch.testing.assert_close(model.score(x, mask=known), rest)


def test_known_parts_are_decoded_from_codes_of_silence() -> None:
    """Who decodes a sound knows where it ends, and nothing of the encoder's codes from there on."""
    model = make()
    x = random_images(model)
    side = model.shape[1] // model.code_shape[0]
    known = torch.zeros(1, 1, *model.shape[1:], dtype=torch.bool)
    known[:, :, side:] = True
    codes = model.codes(x)
    codes[:, 1:] = model.codes(torch.zeros_like(x))[:, 1:]
    assert not torch.equal(codes, model.codes(x))
    expected = model.decode(codes).log_prob(x)[:, :, :side].flatten(1).sum(1)
    torch.testing.assert_close(model.score(x, mask=known), expected)


def test_objective_is_the_score_less_the_commitment() -> None:
    model = make(commitment=2.0)
    x = random_images(model)
    z = model.encoder(model.encode(x))
    off = z - model.quantizer.vectors(model.codes(x))
    expected = model.score(x) - 96 * 2 * off.square().flatten(1).mean(1)
    torch.testing.assert_close(model.objective(x), expected)


def test_a_code_is_decoded_where_it_stands() -> None:
    """Far away pixels do not know it, and those of its place do."""
    model = make(shape=(1, 96, 16))
    codes = torch.zeros(1, 24, 4, dtype=torch.int64)
    other = codes.clone()
    other[0, 2, 1] = 3
    changed = (model.picture(codes) - model.picture(other)).abs()[0, 0]
    assert (changed[8:12, 4:8] > 0).sum() > 8
    assert (changed[60:] == 0).all()


@pytest.mark.parametrize("codebook", ["ema", "loss"])
def test_save_and_load(codebook: Any, tmp_path: Path) -> None:
    model = make(levels=5, codebook=codebook).float()
    model.save(tmp_path)
    again = load(tmp_path)
    x = random_images(model)
    assert isinstance(again, VQVAE)
    assert torch.equal(again.codes(x), model.codes(x))
    assert torch.equal(again.score(x), model.score(x))


def test_after_step_takes_the_parts_as_a_whole() -> None:
    models = [make() for _ in range(2)]
    x = random_images(models[0], 8)
    for model, parts in zip(models, ([x], x.tensor_split(3)), strict=True):
        model.after_step([(part, None) for part in parts], lambda t: t[None], seed=1)
    states = [model.quantizer.state_dict() for model in models]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor)
    assert states[0]["counts"].sum() > 0


def test_diagnosis() -> None:
    model = make(levels=4)
    x = random_images(model, 20)
    told = model.diagnose(x)
    codes, counts = np.unique(model.codes(x).numpy(), return_counts=True)
    shares = counts / counts.sum()
    assert told["usage"] == pytest.approx(len(codes) / 7)
    assert told["perplexity"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    means = model.picture(model.codes(x)).detach().numpy()
    error = ((means - x.numpy()) / 3) ** 2
    assert told["reconstruction_error"] == pytest.approx(error.mean())


def test_an_image_depends_on_seed_and_number_only() -> None:
    model = make(levels=3)
    codes = model.codes(random_images(model, 5))
    together = model.sample(5, codes, seed=7)
    assert torch.equal(model.sample(5, codes, seed=7, batch_size=2), together)
    assert torch.equal(model.sample(1, codes[3], seed=7, numbers=[3])[0], together[3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"downsampling": 3}, "2, 4 or 8"),
        ({"downsampling": 8}, "divisible"),
        ({"width": 0}, "width"),
        ({"codes": 1}, "at least 2 codes"),
        ({"components": 0}, "component"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**arguments)


def test_wrong_codes() -> None:
    model = make()
    with pytest.raises(UserError, match="no prior"):
        model.sample(2)
    with pytest.raises(UserError, match="integers of shape"):
        model.sample(2, torch.zeros(2, 2, 3))
    with pytest.raises(UserError, match="integers of shape"):
        model.sample(2, torch.zeros(2, 3, 3, dtype=torch.int64))
    with pytest.raises(UserError, match="made of numbers, not str"):
        model.sample(2, "null")
    with pytest.raises(UserError, match="another codebook"):
        model.sample(2, torch.full((2, 2, 3), 7))
    with pytest.raises(UserError, match="Images are integers"):
        model.codes(random_images(model).float())
