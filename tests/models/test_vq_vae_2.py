"""VQ-VAE-2: two grids of codes of images, and their decoder."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from nextpixel.errors import UserError
from nextpixel.models import VQVAE2
from nextpixel.tasks.reconstruction import draw_reconstructions
from tests.helpers import random_images, randomize

VARIANTS: list[dict[str, Any]] = [
    {"shape": (1, 8, 12)},
    {"shape": (3, 8, 16), "levels": 5, "likelihood": "categorical", "downsampling": 4},
    {"shape": (3, 32, 16), "levels": 256, "codebook": "loss", "downsampling": 8},
]
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: str(v["shape"]))


def make(**arguments: Any) -> VQVAE2:
    """A small model with random weights everywhere, in float64, and codes near its vectors."""
    torch.manual_seed(0)
    defaults = {"shape": (1, 8, 12), "levels": 2, "width": 4, "codes": 7, "code_size": 3}
    model = VQVAE2(**{**defaults, **arguments}).double()
    randomize(model)
    step(model, [random_images(model, 8, seed=9)])
    return model.eval()


@torch.no_grad()
def step(model: VQVAE2, parts: Any) -> None:
    """Does what follows a step of training with these images."""
    model.after_step([(part, None) for part in parts], lambda t: t[None], seed=1)


@every_variant
def test_shapes_and_gradients(variant: dict[str, Any]) -> None:
    model = make(**variant)
    x = random_images(model)
    codes = model.codes(x)
    top, bottom = model.split(codes)
    side = variant.get("downsampling", 2)
    size = model.shape[1] // side, model.shape[2] // side
    assert bottom.shape == (4, *size)
    assert top.shape == (4, size[0] // 2, size[1] // 2)
    assert model.latent == codes.shape[1] == top[0].numel() + bottom[0].numel()
    assert torch.equal(model.join([top, bottom]), codes)
    for grid in (top, bottom):
        assert 0 <= grid.min() < grid.max() < 7
    of_sites = model.decode(codes).log_prob(x)
    torch.testing.assert_close(model.score(x), of_sites.flatten(1).sum(1))
    model.objective(x).sum().backward()  # both encoders are among the parameters
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert model.reconstruct(x, draws=2, seed=3).shape == (2, *x.shape)
    assert model.picture(codes).shape == x.shape
    assert draw_reconstructions(model, x, draws=1).height > 0


def test_objective_is_the_score_less_both_commitments() -> None:
    model = make(commitment=2.0)
    x = random_images(model)
    features, top = model.encode_top(x)
    bottom = model.encode_bottom(features, model.top_quantizer(top))
    codes = model.split(model.codes(x))
    off = (top - model.top_quantizer.vectors(codes[0])).square().flatten(1).mean(1)
    off = off + (bottom - model.bottom_quantizer.vectors(codes[1])).square().flatten(1).mean(1)
    torch.testing.assert_close(model.objective(x), model.score(x) - 96 * 2 * off)


@pytest.mark.parametrize(("grid", "side"), [(0, 4), (1, 2)])
def test_a_code_is_decoded_where_it_stands(grid: int, side: int) -> None:
    """Far away pixels do not know it, and those of its place do."""
    model = make(shape=(1, 96, 16))
    grids = [torch.zeros(1, *size, dtype=torch.int64) for size in model.sizes.values()]
    before = model.picture(model.join(grids))
    grids[grid][0, 8 // side, 1] = 3
    changed = (model.picture(model.join(grids)) - before).abs()[0, 0]
    assert (changed[8 : 8 + side, side : 2 * side] > 0).any()
    assert (changed[48:] == 0).all()


def test_the_bottom_depends_on_the_top_codes() -> None:
    model = make()
    x = random_images(model, 20)
    before, (top, bottom) = model.codes(x), model.split(model.codes(x))
    model.top_quantizer.codebook.add_(torch.randn(3, dtype=torch.float64) * 3)
    assert not torch.equal(model.codes(x), before)
    assert not torch.equal(model.split(model.codes(x))[1], bottom)
    assert top.shape == (20, 2, 3)


def test_padding_is_left_out_of_both_grids() -> None:
    model = make(commitment=2.0)
    x, known = random_images(model), torch.zeros(4, 1, 8, 12, dtype=torch.bool)
    known[:, :, 4:] = True
    quantized = model.quantize(x)
    off = sum(
        one.loss[:, : size[0] // 2].flatten(1).sum(1) / math.prod(size)
        for one, size in zip(quantized, model.sizes.values(), strict=True)
    )
    nats = model.decode(model.codes(x)).log_prob(x)[:, :, :4].flatten(1).sum(1)
    torch.testing.assert_close(model.objective(x, mask=known), nats - 96 * off)
    top, bottom = model.split(model.codes_of_unknown(x, known))
    ours, empty = model.split(model.codes(x)), model.split(model.blank_codes()[None])
    for found, true, nothing in zip((top, bottom), ours, empty, strict=True):
        half = found.shape[1] // 2
        assert torch.equal(found[:, :half], true[:, :half])
        assert (found[:, half:] == nothing[:, half:]).all()


def test_after_step_moves_both_codebooks_and_takes_the_parts_as_a_whole() -> None:
    models = [make() for _ in range(2)]
    x = random_images(models[0], 8)
    before = [quantizer.codebook.clone() for quantizer in models[0].quantizers]
    for model, parts in zip(models, ([x], x.tensor_split(3)), strict=True):
        step(model, parts)
    for quantizer, old, other in zip(
        models[0].quantizers, before, models[1].quantizers, strict=True
    ):
        assert not torch.equal(quantizer.codebook, old)
        assert quantizer.counts.sum() > 0
        for name, tensor in quantizer.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], tensor)


def test_the_first_bottom_codes_are_placed_for_the_new_top() -> None:
    """Each is a vector that the encoder makes of some image with the top codes as they are now."""
    model = make(decay=0.0, codes=80)
    features, top = model.encode_top(random_images(model, 8, seed=9))
    vectors = model.encode_bottom(features, model.top_quantizer(top)).movedim(1, -1).flatten(0, 2)
    used = model.bottom_quantizer.counts > 0
    near = torch.cdist(vectors, model.bottom_quantizer.codebook[used]).amin(1)
    assert used.all()
    assert near.mean() < 0.2 * torch.cdist(vectors, vectors.mean(0)[None]).mean()


def test_diagnosis_of_both_grids() -> None:
    model = make(levels=4)
    x = random_images(model, 20)
    told = model.diagnose(x)
    for name, grid in zip(("top", "bottom"), model.split(model.codes(x)), strict=True):
        codes, counts = np.unique(grid.numpy(), return_counts=True)
        shares = counts / counts.sum()
        assert told[f"{name}_usage"] == pytest.approx(len(codes) / 7)
        entropy = -(shares * np.log(shares)).sum()
        assert told[f"{name}_perplexity"] == pytest.approx(np.exp(entropy))
    assert told["reconstruction_error"] > 0


def test_wrong_arguments_and_codes() -> None:
    with pytest.raises(UserError, match="half the height and width"):
        make(shape=(1, 28, 28), downsampling=4)
    model = make()
    with pytest.raises(UserError, match=r"integers of shape \(2, 30\)"):
        model.sample(2, torch.zeros(2, 4, 6, dtype=torch.int64))
    with pytest.raises(UserError, match="no prior"):
        model.sample(2)
