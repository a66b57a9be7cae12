"""Autoencoders: what they compute."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nextpixel.data import Images
from nextpixel.errors import UserError
from nextpixel.evaluation.likelihood import evaluate
from nextpixel.models import VAE, Autoencoder, PixelCNNAutoencoder
from nextpixel.models.base.bounds import code_noise, image_noise
from nextpixel.models.base.image_model import Conditioning, load
from nextpixel.models.base.latent import LatentModel
from nextpixel.sampling.config import site_noise
from nextpixel.tasks.reconstruction import draw_interpolations, draw_reconstructions
from tests.helpers import random_images, randomize

SMALL: dict[type[LatentModel], dict[str, Any]] = {
    Autoencoder: {"width": 4},
    VAE: {"width": 4},
    PixelCNNAutoencoder: {"encoder_width": 4, "width": 6, "blocks": 2, "kernel_size": 3},
}
every_model = pytest.mark.parametrize("cls", SMALL, ids=lambda cls: cls.__name__)


def make(cls: type[LatentModel], **arguments: Any) -> Any:
    """A small model with random weights everywhere, in float64."""
    torch.manual_seed(0)
    shape = arguments.pop("shape", (1, 8, 12))
    model = cls(**{"shape": shape, "levels": 2, "latent": 3, **SMALL[cls], **arguments}).double()
    randomize(model)
    return model.eval()


# --- the models -----------------------------------------------------------------------------------

VARIANTS: list[tuple[type[LatentModel], dict[str, Any]]] = [
    (Autoencoder, {}),
    (Autoencoder, {"levels": 5, "shape": (3, 8, 8)}),
    (Autoencoder, {"levels": 5, "likelihood": "categorical", "shape": (3, 4, 8)}),
    (VAE, {"latent": 1}),
    (VAE, {"levels": 256, "components": 2, "shape": (3, 8, 8)}),
    (VAE, {"levels": 256, "likelihood": "categorical"}),
    (PixelCNNAutoencoder, {}),
    (PixelCNNAutoencoder, {"levels": 5, "shape": (3, 8, 4), "inputs": "embedded"}),
]
every_variant = pytest.mark.parametrize(
    ("cls", "variant"),
    VARIANTS,
    ids=["-".join([cls.__name__, *map(str, variant.values())]) for cls, variant in VARIANTS],
)


@every_variant
def test_shapes_and_gradients(cls: type[LatentModel], variant: dict[str, Any]) -> None:
    model = make(cls, **variant)
    x = random_images(model)
    assert model.embed(x).shape == (4, model.latent)
    assert model.score(x).shape == (4,)
    model.objective(x).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    drawn = model.reconstruct(x, draws=2, seed=3)
    assert (drawn.shape, drawn.dtype) == ((2, *x.shape), torch.int64)
    assert 0 <= drawn.min() <= drawn.max() < model.levels
    shown = model.picture(model.embed(x))
    assert shown.shape == x.shape
    assert 0 <= shown.min() <= shown.max() <= model.levels - 1
    assert draw_reconstructions(model, x, draws=2).width > draw_reconstructions(model, x, 1).width


@every_variant
def test_score_is_the_sum_over_the_pixels_that_count(
    cls: type[LatentModel], variant: dict[str, Any]
) -> None:
    model = make(cls, **variant)
    x = random_images(model)
    top = torch.zeros(1, 1, *model.shape[1:], dtype=torch.bool)
    top[:, :, :2] = True
    nothing = model.score(x, mask=torch.ones_like(top))
    upper = model.score(x, mask=~top) - nothing
    lower = model.score(x, mask=top) - nothing
    torch.testing.assert_close(upper + lower + nothing, model.score(x))


@every_model
def test_save_and_load(cls: type[LatentModel], tmp_path: Path) -> None:
    model = make(cls, levels=5).float()
    model.save(tmp_path)
    again = load(tmp_path)
    x = random_images(model)
    assert type(again) is cls
    assert torch.equal(again.score(x), model.score(x))
    assert torch.equal(again.sample(2, torch.ones(3)), model.sample(2, torch.ones(3)))


@every_model
def test_an_image_depends_on_seed_and_number_only(cls: type[LatentModel]) -> None:
    model = make(cls, levels=3)
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).double()
    together = model.sample(5, z, seed=7)
    assert torch.equal(model.sample(5, z, seed=7, batch_size=2), together)
    assert torch.equal(model.sample(1, z[3:4], seed=7, numbers=[3])[0], together[3])
    assert not torch.equal(model.sample(5, z, seed=8), together)


@every_model
def test_mistakes(cls: type[LatentModel]) -> None:
    with pytest.raises(UserError, match="divisible by 4"):
        make(cls, shape=(1, 8, 10))
    with pytest.raises(UserError, match="at least 1 number"):
        make(cls, latent=0)
    model = make(cls)
    with pytest.raises(UserError, match="unconditional"):
        model.score(random_images(model), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(UserError, match="vector"):
        model.sample(2, torch.zeros(2, 5))
    with pytest.raises(UserError, match="Images are integers"):
        model.score(random_images(model).float())
    for name in SMALL[cls].keys() & {"width", "encoder_width"}:
        with pytest.raises(UserError, match=f"^{name} must be at least 1"):
            make(cls, **{name: 0})
    if cls is not VAE:
        with pytest.raises(UserError, match="no prior"):
            model.sample(2)
    if cls is not PixelCNNAutoencoder:
        with pytest.raises(UserError, match="likelihood is"):
            make(cls, likelihood="gaussian")
        with pytest.raises(UserError, match="component"):
            make(cls, components=0)
        with pytest.raises(UserError, match="temperature"):
            model.sample(2, torch.zeros(3), temperature=0)
    with pytest.raises(UserError, match="one image"):
        model.sample(0, torch.zeros(3))
    with pytest.raises(UserError, match="no name such as 'null'"):
        model.sample(2, "null")
    if cls is VAE:
        with pytest.raises(UserError, match="one image"):
            model.sample(0)
    with pytest.raises(UserError, match="needs pairs of images"):
        draw_interpolations(model, random_images(model, 3), 4)
    with pytest.raises(UserError, match="at least 2 pictures"):
        draw_interpolations(model, random_images(model, 2), 1)


def test_pixel_cnn_autoencoder_is_the_decoder_at_the_code() -> None:
    model = make(PixelCNNAutoencoder, levels=4)
    x = random_images(model)
    z = model.embed(x)
    assert torch.equal(model.score(x), model.decoder.log_prob(x, z))
    assert not torch.allclose(model.decoder.log_prob(x, z.flip(0)), model.score(x))
    assert torch.equal(model.sample(4, z, seed=2), model.decoder.sample(4, z, seed=2))
    full = model.sample(4, z, seed=2, sampler="full")
    assert torch.equal(model.sample(4, z, seed=2, sampler="cached"), full)


def test_mean_is_the_mean_of_draws() -> None:
    model = make(VAE, levels=4)
    z = torch.tensor([0.5, -1.0, 2.0]).double()
    drawn = model.sample(2000, z, seed=1).double()
    error = drawn.std(0) / math.sqrt(2000)
    off = (drawn.mean(0) - model.picture(z[None])[0]) / error
    assert off.abs().max() < 5


def test_low_temperature_takes_the_likeliest_levels() -> None:
    model = make(Autoencoder, levels=4, likelihood="categorical")
    z = torch.ones(3).double()
    likeliest = model.decode(z[None]).pmf().argmax(-1)
    assert torch.equal(model.sample(1, z, temperature=1e-6), likeliest)


@every_model
def test_interpolation_goes_from_code_to_code(
    cls: type[LatentModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(cls)
    x = random_images(model, 4)
    drawn: list[tuple[Tensor, int]] = []

    def picture(z: Tensor, seed: int) -> Tensor:
        drawn.append((z, seed))
        return torch.zeros(len(z), *model.shape)

    monkeypatch.setattr(model, "picture", picture)
    row = draw_interpolations(model, x, 3, seed=7)
    z = model.embed(x).detach()
    expected = [z[::2], (z[::2] + z[1::2]) / 2, z[1::2]]
    for (codes, seed), there in zip(drawn, expected, strict=True):
        torch.testing.assert_close(codes, there)
        assert seed == 7  # the same noise all along a row
    assert row.width > draw_interpolations(model, x, 2).width


# --- the VAE --------------------------------------------------------------------------------------


def test_bounds_of_a_network_are_in_order() -> None:
    model = make(VAE)
    x = random_images(model, 3)
    with torch.no_grad():
        elbos = torch.stack([model.elbo(x, seed=seed) for seed in range(300)])
        ones = torch.stack([model.importance_bound(x, 1, seed=seed) for seed in range(300)])
        tight = model.importance_bound(x, 300)
    error = (elbos.var(0) / 300 + ones.var(0) / 300).sqrt()
    assert ((elbos.mean(0) - ones.mean(0)) / error).abs().max() < 4
    assert (tight > elbos.mean(0) + 4 * error).all()  # random weights leave a gap
    many = model.elbo(x, samples=300)
    assert ((many - elbos.mean(0)) / (elbos.std(0) / math.sqrt(150))).abs().max() < 4


def test_score_is_the_elbo_whatever_the_training() -> None:
    plain, other = make(VAE), make(VAE, beta=4.0, free_bits=2.0)
    x = random_images(plain)
    assert torch.equal(plain.score(x), plain.elbo(x, samples=1, seed=0))
    assert torch.equal(other.score(x), plain.score(x))
    assert torch.equal(plain.score(x), plain.score(x))
    torch.testing.assert_close(plain.score(x.flip(0))[:1], plain.score(x[3:]))  # any order, batch
    assert not torch.equal(plain.elbo(x, seed=1), plain.score(x))


def objective(x: Tensor, **arguments: Any) -> Tensor:
    model = make(VAE, **arguments)
    torch.manual_seed(5)
    value: Tensor = model.objective(x)
    return value.detach()


def test_beta_weighs_the_divergence() -> None:
    x = random_images(make(VAE))
    kl = make(VAE).posterior(x).kl().sum(1).detach()
    none, one, three = (objective(x, beta=beta) for beta in (0.0, 1.0, 3.0))
    torch.testing.assert_close(none - one, kl)
    torch.testing.assert_close(none - three, 3 * kl)


def test_free_bits_are_not_counted() -> None:
    x = random_images(make(VAE))
    kl = make(VAE).posterior(x).kl().mean(0).detach()
    some = float(kl.sort()[0][1])  # above one of the three numbers
    none, free = objective(x, beta=0.0), objective(x, free_bits=some)
    torch.testing.assert_close(none - free, kl.clamp_min(some).sum().expand(4))
    assert kl.clamp_min(some).sum() > kl.sum()
    model = make(VAE, free_bits=1000.0)
    model.objective(x).sum().backward()
    log_std = model.encoder.last.bias.grad[model.latent :]
    model.zero_grad()
    torch.manual_seed(5)
    free_gradient = gradient(x, free_bits=1000.0)
    torch.testing.assert_close(free_gradient, gradient(x, beta=0.0))  # no price for any of them
    assert log_std.abs().sum() > 0
    assert not torch.allclose(free_gradient, gradient(x))


def gradient(x: Tensor, **arguments: Any) -> Tensor:
    model = make(VAE, **arguments)
    torch.manual_seed(5)
    model.objective(x).sum().backward()
    grad: Tensor = model.encoder.last.bias.grad
    return grad


def test_training_noise_is_fresh() -> None:
    model = make(VAE)
    x = random_images(model)
    assert not torch.equal(model.objective(x), model.objective(x))


@pytest.mark.parametrize("name", ["beta", "free_bits"])
def test_impossible_vaes(name: str) -> None:
    for value in (-1.0, math.inf, math.nan):
        with pytest.raises(UserError, match=name):
            make(VAE, **{name: value})
    with pytest.raises(UserError, match="at least 1 draw"):
        make(VAE).elbo(random_images(make(VAE)), samples=0)


def test_prior_samples_have_their_own_noise() -> None:
    model = make(VAE)
    x = model.sample(4, seed=3)
    assert torch.equal(model.sample(2, seed=3, numbers=[2, 3]), x[2:])
    z = code_noise(3, range(4), 3)
    assert torch.equal(model.sample(4, z, seed=3), x)
    many = code_noise(0, range(2000), 4)
    assert abs(many.mean()) < 0.05
    assert abs(many.std() - 1) < 0.05
    # Not the numbers that the pixels are drawn from.
    first = site_noise((1, 1, 2), 0, range(2000)).flatten(1)
    both = torch.cat([torch.special.ndtr(many), first], 1)
    assert (torch.corrcoef(both.T) - torch.eye(6)).abs().max() < 0.1


def test_noise_of_an_image_is_that_of_its_pixels() -> None:
    x = random_images(make(VAE), 3)
    noise = image_noise(0, x, 5, 2)
    assert noise.shape == (5, 3, 2)
    assert torch.equal(image_noise(0, x[1:2].to(torch.uint8), 5, 2)[:, 0], noise[:, 1])
    assert not torch.equal(noise[:, 0], noise[:, 1])
    assert torch.unique(noise).numel() == noise.numel()


def test_evaluate_with_another_score() -> None:
    model = make(VAE, shape=(1, 8, 8))
    x = random_images(model, 5)
    data = Images(x.numpy().astype(np.uint8), None, 2)

    def bound(network: Any, x: Tensor, _: Conditioning) -> Any:
        assert not network.training
        return network.importance_bound(x, 20)

    score = evaluate(model.train(), data, score=bound, batch_size=2)
    model.eval()
    with torch.no_grad():
        assert score.nats == pytest.approx(-model.importance_bound(x, 20).mean().item())
        assert evaluate(model, data).nats == pytest.approx(-model.elbo(x).mean().item())
