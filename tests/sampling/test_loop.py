"""The sampling loop, and all that is built on it: noise, known pixels, autocast, options."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

import nextpixel as npx
from nextpixel.conditioning.classifier import Classifier
from nextpixel.conditioning.features import Features
from nextpixel.data.images import Images
from nextpixel.errors import UserError
from nextpixel.evaluation.likelihood import class_log_probs, classify, evaluate, hidden_bits
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.models.base.latent import LatentModel
from nextpixel.sampling import Sampler, all_at_once, film, fixed_point
from nextpixel.sampling.config import site_noise
from nextpixel.tasks.reconstruction import embed
from nextpixel.utils.inference import evaluation_mode

T = TypeVar("T")


class Rows(AutoregressiveModel):
    """A user's own model, with `forward` alone: a pixel is likely to be as the one to its left."""

    def forward(self, x: Tensor, c: object = None) -> npx.Categorical:
        left = torch.nn.functional.pad(x, (1, -1))
        return npx.Categorical(2.0 * torch.nn.functional.one_hot(left, self.levels).double())


@pytest.fixture
def model() -> Rows:
    return Rows(shape=(1, 4, 5), levels=3)


def test_noise_depends_on_seed_and_image_only() -> None:
    noise = site_noise((1, 3, 4), 5, range(4))
    assert noise.shape == (4, 1, 3, 4)
    assert noise.dtype == torch.float64
    assert bool(((noise >= 0) & (noise < 1)).all())
    assert torch.equal(site_noise((1, 3, 4), 5, [2]), noise[2:3])
    assert not torch.equal(site_noise((1, 3, 4), 6, [2]), noise[2:3])
    assert not torch.equal(noise[0], noise[1])
    many = site_noise((1, 28, 28), 0, range(50))
    assert abs(many.mean() - 0.5) < 0.01


def test_a_model_with_forward_alone_can_be_sampled(model: Rows) -> None:
    x = model.sample(2, seed=3)
    assert x.shape == (2, 1, 4, 5)
    # Drawing is inverting the CDF at every site: repeating the network on the result agrees.
    assert torch.equal(model(x).sample(site_noise(model.shape, 3, range(2))), x)


def test_trace_yields_every_step(model: Rows) -> None:
    seen = []
    for number, step in enumerate(npx.trace(model, 2, seed=3)):
        assert (step.site.row, step.site.col) == divmod(number, 5)
        assert (step.x.flatten(2)[..., number + 1 :] == 0).all()
        assert step.distribution.pmf().shape == (2, 3)
        seen.append(step.x.clone())
    assert len(seen) == 20
    assert torch.equal(seen[-1], model.sample(2, seed=3))
    assert torch.is_grad_enabled()


def test_film_ends_with_the_drawn_picture(model: Rows) -> None:
    pictures, done = film(model, 2, seed=3, moments=5)
    assert done == [4, 8, 12, 16, 20]
    assert torch.equal(pictures[-1], model.sample(2, seed=3))
    assert torch.equal(pictures[1].flatten(2)[..., :8], pictures[-1].flatten(2)[..., :8])
    assert (pictures[1].flatten(2)[..., 8:] == 0).all()


def test_a_film_has_at_most_as_many_moments(model: Rows) -> None:
    parts: list[float] = []
    assert film(model, 1, moments=3, progress=parts.append)[1] == [6, 13, 20]
    assert parts == [done / 20 for done in range(1, 21)]
    assert film(model, 1, moments=1)[1] == [20]
    assert film(model, 1, moments=21)[1] == list(range(1, 21))
    with pytest.raises(UserError, match="at least one moment, not 0"):
        film(model, 1, moments=0)


def test_film_of_colours_counts_whole_pixels() -> None:
    network = npx.PixelCNN(shape=(3, 2, 2), levels=4, width=6, blocks=1)
    assert film(network, 1, moments=4)[1] == [1, 2, 3, 4]


def test_all_at_once_is_one_pass_over_an_empty_picture(model: Rows) -> None:
    nothing = torch.zeros(2, *model.shape, dtype=torch.int64)
    expected = model(nothing).sample(site_noise(model.shape, 3, range(2)))
    assert torch.equal(all_at_once(model, 2, seed=3), expected)
    assert torch.equal(all_at_once(model, 2), all_at_once(model, 2, seed=0))
    assert not torch.equal(expected, model.sample(2, seed=3))


def test_progress_ends_at_one(model: Rows) -> None:
    parts: list[float] = []
    model.sample(5, batch_size=2, progress=parts.append)
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    parts.clear()
    model.sample(5, batch_size=2, sampler="cached", progress=parts.append)
    batches = [(0, 2), (2, 2), (4, 1)]
    assert parts == [(begin + n * k / 20) / 5 for begin, n in batches for k in range(1, 21)]


def test_complete_keeps_what_is_known(model: Rows) -> None:
    x = model.sample(3, seed=9)
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[:2] = True
    completed = npx.complete(model, x, mask, seed=1)
    assert torch.equal(completed[:, :, :2], x[:, :, :2])
    assert not torch.equal(completed, x)
    other = npx.complete(model, x, mask, seed=1, numbers=[3, 4, 5])
    assert not torch.equal(other, completed)


@pytest.mark.parametrize("sampler", ["fixed-point", "cached"])
def test_images_of_one_number_have_the_same_noise(model: Rows, sampler: Sampler) -> None:
    three = model.sample(3, seed=1)
    x = model.sample(5, seed=1, numbers=[2, 0, 2, 1, 1], batch_size=2, sampler=sampler)
    assert torch.equal(x, three[[2, 0, 2, 1, 1]])
    with pytest.raises(UserError, match="5 images need 5 numbers, not 3"):
        model.sample(5, numbers=range(3))


def test_hidden_bits_are_those_of_the_hidden_pixels(model: Rows) -> None:
    x = model.sample(3, seed=9)
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[:2] = True
    bits = hidden_bits(model, x, mask)
    assert (bits[:, :, :2] == 0).all()
    everything = hidden_bits(model, x, torch.zeros_like(mask))
    torch.testing.assert_close(everything.sum((1, 2, 3)), 20 * model.bits_per_dim(x))
    assert torch.equal(bits[:, :, 2:], everything[:, :, 2:])


def test_mistakes_are_told(model: Rows) -> None:
    x = model.sample(2)
    with pytest.raises(UserError, match="at least one"):
        model.sample(0)
    with pytest.raises(UserError, match="booleans"):
        npx.complete(model, x, torch.ones(4, 5))
    with pytest.raises(UserError, match="between 0 and 2"):
        npx.complete(model, x + 1, torch.ones(4, 5, dtype=torch.bool))
    with pytest.raises(UserError, match="must fit"):
        npx.complete(model, x[..., :3], torch.ones(4, 5, dtype=torch.bool))
    with pytest.raises(UserError, match="seed lies"):
        model.sample(1, seed=-1)


NOISY: dict[str, Callable[..., object]] = {
    "sample": lambda **how: Rows(shape=(1, 4, 5), levels=3).sample(2, **how),
    "complete_with_particles": lambda **how: npx.complete_with_particles(
        Rows(shape=(1, 4, 5), levels=3),
        torch.zeros(2, 1, 4, 5, dtype=torch.int64),
        torch.ones(4, 5, dtype=torch.bool),
        particles=2,
        **how,
    ),
    "Autoencoder.sample": lambda **how: npx.Autoencoder(shape=(1, 8, 8), levels=2, latent=3).sample(
        2, torch.zeros(3), **how
    ),
    "VAE.sample": lambda **how: npx.VAE(shape=(1, 8, 8), levels=2).sample(2, **how),
    "VQVAE.reconstruct": lambda **how: npx.VQVAE(shape=(1, 8, 8), levels=2).reconstruct(
        torch.zeros(2, 1, 8, 8, dtype=torch.int64), **how
    ),
    "Task.degrade": lambda numbers=(0, 1), **how: npx.Task("denoise").degrade(
        torch.zeros(2, 1, 8, 8, dtype=torch.int64), 2, numbers, **how
    ),
}


@pytest.mark.parametrize("name", NOISY)
def test_seeds_and_numbers_are_checked_wherever_images_have_noise(name: str) -> None:
    draw = NOISY[name]
    for seed in (-1, 2**63):
        with pytest.raises(UserError, match=rf"seed lies between 0 and 2\^63, not {seed}"):
            draw(seed=seed)
    for numbers in ([0], [0, 1, 2]):
        with pytest.raises(UserError, match=rf"2 numbers, not {len(numbers)}"):
            draw(numbers=numbers)
    for number in (-1, 2**64):
        with pytest.raises(UserError, match="Images have numbers from 0"):
            draw(numbers=[0, number])


def test_known_pixels_and_their_mask_go_together(model: Rows) -> None:
    x, mask = model.sample(1), torch.ones(4, 5, dtype=torch.bool)
    for given in ({"x": x}, {"mask": mask}):
        with pytest.raises(UserError, match="go together"):
            model.sample(1, **given)


def test_bounds_check_their_seed() -> None:
    model, x = npx.VAE(shape=(1, 8, 8), levels=2), torch.zeros(2, 1, 8, 8, dtype=torch.int64)
    for bound in (model.elbo, model.importance_bound):
        with pytest.raises(UserError, match="seed lies"):
            bound(x, 1, seed=-1)


DRAW: dict[str, Callable[[AutoregressiveModel, Tensor, Tensor], object]] = {
    "sample": lambda model, x, mask: model.sample(1, 0, x=x, mask=mask),
    "sample at once": lambda model, x, mask: model.sample(
        1, 0, x=x, mask=mask, sampler="fixed-point"
    ),
    "fixed_point": lambda model, x, mask: fixed_point(model, 1, 0, x=x, mask=mask),
    "trace": lambda model, x, mask: next(npx.trace(model, 1, 0, x=x, mask=mask)),
    "film": lambda model, x, mask: film(model, 1, 0, x=x, mask=mask),
    "complete": lambda model, x, mask: npx.complete(model, x, mask, 0),
    "complete_with_particles": lambda model, x, mask: npx.complete_with_particles(
        model, x, mask, 0, particles=2
    ),
}
SCORE: dict[str, Callable[[AutoregressiveModel, Tensor, Tensor], object]] = {
    "hidden_bits": lambda model, x, mask: hidden_bits(model, x, mask, 0),
    "log_prob": lambda model, x, mask: model.log_prob(x, 0, mask),
    "score": lambda model, x, mask: model.score(x, 0, mask),
    "objective": lambda model, x, mask: model.objective(x, 0, mask),
    "class_log_probs": lambda model, x, mask: class_log_probs(model, x, mask),
}


@pytest.mark.parametrize("name", DRAW | SCORE)
def test_pixels_and_masks_are_not_mixed_up(name: str) -> None:
    model = npx.GatedPixelCNN(shape=(1, 4, 5), levels=2, classes=3, width=6, blocks=2)
    use = (DRAW | SCORE)[name]
    x, mask = torch.zeros(1, 1, 4, 5, dtype=torch.int64), torch.ones(1, 1, 4, 5, dtype=torch.bool)
    use(model, x, mask)
    for pixels in (mask, x.float()):
        with pytest.raises(UserError, match=r"integers.*not torch\.(bool|float32)"):
            use(model, pixels, mask)
    for known in (x, x.float()):
        with pytest.raises(UserError, match=r"mask is made of booleans.*torch\.(int64|float32)"):
            use(model, x, known)
    with pytest.raises(UserError, match=r"must fit .* not .*\(1, 1, 4, 4\)"):
        use(model, x, mask[..., 1:])


@pytest.mark.parametrize("cls", [npx.Autoencoder, npx.VAE, npx.VQVAE, npx.PixelCNNAutoencoder])
def test_models_with_a_code_do_not_mix_them_up_either(cls: Callable[..., LatentModel]) -> None:
    model = cls(shape=(1, 8, 8), levels=2)
    x, mask = torch.zeros(2, 1, 8, 8, dtype=torch.int64), torch.ones(2, 1, 8, 8, dtype=torch.bool)
    for compute in (model.score, model.objective):
        compute(x, None, mask)
        with pytest.raises(UserError, match=r"integers in .*, not torch\.bool"):
            compute(mask, None, mask)
        with pytest.raises(UserError, match="mask is made of booleans"):
            compute(x, None, x)
        with pytest.raises(UserError, match=r"must fit \(2, 1, 8, 8\), not \(2, 1, 8, 7\)"):
            compute(x, None, mask[..., 1:])
    with pytest.raises(UserError, match="integers"):
        model.reconstruct(mask)


def test_known_pixels_of_256_levels_may_be_bytes() -> None:
    model = Rows(shape=(1, 2, 3), levels=256)
    x = torch.full((1, 1, 2, 3), 255, dtype=torch.uint8)
    kept = npx.complete(model, x, torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(kept, x.long())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_known_pixels_and_their_mask_may_be_on_two_devices() -> None:
    model = npx.PixelCNN(shape=(1, 2, 3), levels=4, width=4, blocks=1).cuda()
    x, mask = torch.ones(1, 1, 2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(npx.complete(model, x.cuda(), mask), x)
    assert torch.equal(npx.complete(model, x, mask.cuda()), x)


def test_hyperparameters_must_be_handed_on() -> None:
    class Forgetful(Rows):
        def __init__(self, *, shape: tuple[int, int, int], levels: int, depth: int = 2) -> None:
            super().__init__(shape=shape, levels=levels)

    with pytest.raises(TypeError, match="depth"):
        Forgetful(shape=(1, 2, 2), levels=2)


@pytest.mark.parametrize("sampler", ["full", "cached"])
def test_a_sampler_takes_its_own_passes(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both draw the same, so only what they call tells them apart."""
    network = npx.PixelCNN(shape=(1, 2, 3), levels=4, width=4, blocks=1)
    called = []
    for name in ("forward", "step"):
        real = getattr(npx.PixelCNN, name)

        def spy(*given: Any, real: Any = real, name: str = name) -> Any:
            called.append(name)
            return real(*given)

        monkeypatch.setattr(npx.PixelCNN, name, spy)
    network.sample(2, sampler=sampler)
    assert called == [{"full": "forward", "cached": "step"}[sampler]] * 6


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_steps_of_the_engine_have_the_distributions_of_the_others(guidance: float) -> None:
    """With channels that depend on each other, and every image twice with guidance."""
    torch.manual_seed(0)
    network = npx.PixelCNNPP(shape=(3, 2, 3), levels=4, classes=2, width=8, blocks=1).eval()
    torch.nn.init.normal_(network.condition.weight)
    how: dict[str, Any] = {"seed": 3, "guidance": guidance}
    steps = zip(
        npx.trace(network, 2, 1, sampler="engine", **how),
        npx.trace(network, 2, 1, sampler="cached", **how),
        strict=True,
    )
    for engine, cached in steps:
        assert engine.site == cached.site
        assert torch.equal(engine.x, cached.x)
        pmf = cached.distribution.pmf()
        torch.testing.assert_close(engine.distribution.pmf(), pmf, rtol=1e-4, atol=1e-6)


def test_a_fixed_point_counts_its_passes(model: Rows) -> None:
    """A pixel depends on the one to its left: each pass settles a column, the last one none."""
    x, count = fixed_point(model, 3, seed=1)
    assert 2 <= count <= 6
    assert torch.equal(x, model.sample(3, seed=1, sampler="cached"))
    passes: list[object] = []
    parts: list[float] = []
    model.sample(4, seed=1, batch_size=3, passes=passes.append, progress=parts.append)
    assert passes[0] == count
    assert len(passes) == 2
    assert parts[count - 1] == 3 / 4
    assert parts[-1] == 1


@pytest.mark.parametrize("temperature", [0, -1, math.inf, math.nan])
def test_a_temperature_is_above_0(model: Rows, temperature: float) -> None:
    with pytest.raises(UserError, match="temperature must be above 0"):
        model.sample(1, temperature=temperature)


@pytest.mark.parametrize("guidance", [-0.1, math.inf, math.nan])
def test_guidance_is_at_least_0(model: Rows, guidance: float) -> None:
    with pytest.raises(UserError, match="guidance must be at least 0"):
        model.sample(1, guidance=guidance)


def test_a_fixed_point_that_never_comes_is_refused(model: Rows) -> None:
    def contrary(x: Tensor, c: object = None) -> npx.Categorical:
        return npx.Categorical(-50.0 * torch.nn.functional.one_hot(x, model.levels).double())

    model.forward = contrary  # type: ignore[method-assign]
    with pytest.raises(UserError, match="do not settle"):
        model.sample(2, sampler="fixed-point")
    with pytest.raises(UserError, match="no sampler 'ful'"):
        next(npx.trace(model, 1, sampler="ful"))  # type: ignore[arg-type]


# Autocast

NETWORKS = {
    "gated": lambda: npx.GatedPixelCNN(
        shape=(1, 4, 4), levels=5, classes=3, width=32, blocks=2, kernel_size=3
    ),
    "colours": lambda: npx.PixelCNNPP(shape=(3, 4, 4), levels=16, classes=3, width=32, blocks=1),
    "forward alone": lambda: Rounded(shape=(1, 4, 5), levels=3, classes=3),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


class Rounded(Rows):
    """A user's own model, whose answers autocast would round."""

    def __init__(self, *, shape: tuple[int, int, int], levels: int, classes: int) -> None:
        AutoregressiveModel.__init__(self, shape=shape, levels=levels, classes=classes)
        self.layer = torch.nn.Linear(levels, levels)

    def forward(self, x: Tensor, c: object = None) -> npx.Categorical:
        left = torch.nn.functional.pad(x, (1, -1))
        return npx.Categorical(
            self.layer(torch.nn.functional.one_hot(left.long(), self.levels).float())
        )


def network(name: str) -> AutoregressiveModel:
    """Random weights everywhere, so that all of them count; in training mode."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=1 / parameter[0].numel() ** 0.5)
    return network


def outside_and_inside(compute: Callable[[], T]) -> tuple[T, T]:
    """What is computed outside and inside of autocast."""
    outside = compute()
    with torch.autocast("cpu", torch.bfloat16):
        return outside, compute()


@every_network
def test_a_pass_under_autocast_is_rounded(name: str) -> None:
    """Or the tests below would say nothing."""
    model = network(name).eval()
    x = torch.randint(model.levels, (2, *model.shape))
    with torch.no_grad():
        outside, inside = outside_and_inside(lambda: model.log_prob(x, 1))
    assert not torch.equal(outside, inside)


@every_network
@pytest.mark.parametrize("sampler", ["auto", "cached", "full", "fixed-point"])
@pytest.mark.parametrize("guidance", [1, 2])
def test_drawing_under_autocast_is_drawing(name: str, sampler: Sampler, guidance: float) -> None:
    model = network(name)
    outside, inside = outside_and_inside(
        lambda: model.sample(20, 1, seed=3, sampler=sampler, guidance=guidance)
    )
    assert torch.equal(outside, inside)
    assert model.training


@every_network
def test_all_other_ways_to_draw_ignore_autocast(name: str) -> None:
    model = network(name)
    x, mask = model.sample(6, 1, seed=9), torch.rand(model.shape) < 0.5
    ways: list[Callable[[], Tensor]] = [
        lambda: npx.complete(model, x, mask, 1),
        lambda: film(model, 6, 1)[0][-1],
        lambda: all_at_once(model, 20, 1),
        lambda: torch.cat([step.distribution.pmf().flatten() for step in npx.trace(model, 2, 1)]),
        lambda: npx.complete_with_particles(model, x, mask, 1, particles=8).log_evidence,
    ]
    for way in ways:
        outside, inside = outside_and_inside(way)
        assert torch.equal(outside, inside)


@every_network
def test_scores_ignore_autocast(name: str) -> None:
    model = network(name)
    x = model.sample(20, 1)
    images = Images(x.numpy().astype(np.uint8), np.arange(20) % 3, model.levels)
    for compute in (lambda: evaluate(model, images), lambda: str(classify(model, images))):
        outside, inside = outside_and_inside(compute)
        assert outside == inside
    nothing = torch.zeros(model.shape, dtype=torch.bool)
    outside, inside = outside_and_inside(lambda: hidden_bits(model, x, nothing, 1))
    assert torch.equal(outside, inside)


@pytest.mark.parametrize("cls", [npx.VAE, npx.VQVAE])
def test_models_with_a_code_ignore_autocast(cls: type[npx.VAE | npx.VQVAE]) -> None:
    torch.manual_seed(0)
    model = cls(shape=(1, 8, 8), levels=16, width=32)
    x = torch.randint(16, (20, 1, 8, 8))
    images = Images(x.numpy().astype(np.uint8), None, 16)
    outside, inside = outside_and_inside(lambda: evaluate(model, images))
    assert outside == inside
    outside, inside = outside_and_inside(lambda: model.reconstruct(x))
    assert torch.equal(outside, inside)
    outside, inside = outside_and_inside(lambda: model.picture(embed(model, x)))
    assert torch.equal(outside, inside)


def test_features_and_classifiers_ignore_autocast() -> None:
    torch.manual_seed(0)
    classifier = Classifier(shape=(1, 8, 8), levels=16, classes=3, width=32).eval()
    features = Features(classifier, "embedding")
    x = torch.randint(16, (20, 1, 8, 8))
    outside, inside = outside_and_inside(lambda: features(x))
    assert torch.equal(outside, inside)
    with torch.no_grad():
        outside, inside = outside_and_inside(lambda: classifier(x))
    assert not torch.equal(outside, inside)


def test_evaluation_mode_leaves_all_as_it_was(model: Rows) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        with evaluation_mode(model) as network:
            assert not torch.is_autocast_enabled("cpu")
            assert not network.training
            assert model.training
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert model.training
        with pytest.raises(ZeroDivisionError), evaluation_mode(model.eval()):
            raise ZeroDivisionError
        assert torch.is_autocast_enabled("cpu")
        assert not model.training


# Options


@pytest.mark.parametrize("draw", [npx.trace, film])
def test_a_fixed_point_has_no_steps(model: Rows, draw: Callable[..., object]) -> None:
    with pytest.raises(UserError, match="no steps to follow"):
        draw(model, 2, sampler="fixed-point")


def test_unknown_options_are_named(model: Rows) -> None:
    x, mask = model.sample(1), torch.ones(4, 5, dtype=torch.bool)
    for draw in (
        lambda how: model.sample(1, **how),
        lambda how: npx.trace(model, 1, **how),
        lambda how: film(model, 1, **how),
        lambda how: npx.complete(model, x, mask, **how),
        lambda how: npx.VAE(shape=(1, 8, 8), levels=2).sample(1, **how),
    ):
        with pytest.raises(TypeError, match="temprature"):
            draw({"temprature": 2.0})


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_no_sampler_takes_such_a_temperature(temperature: float) -> None:
    model = npx.PixelCNN(shape=(1, 3, 3), levels=4, width=4, blocks=1)
    for draw in (all_at_once, npx.sampling.sample):
        with pytest.raises(UserError, match="The temperature must be above 0"):
            draw(model, 1, temperature=temperature)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(3, 4, dtype=torch.bool), r"must fit \(2, 1, 3, 3\), not .* and \(3, 4\)"),
        (torch.ones(3, 3), "made of booleans, true at known pixels, not of torch.float32"),
        ([[True], [True, False]], "A mask is an array of booleans"),
        ("top", "A mask is an array of booleans"),
    ],
)
def test_wrong_masks_are_refused(mask: Any, message: str) -> None:
    model = npx.PixelCNN(shape=(1, 3, 3), levels=4, width=4, blocks=1)
    x = torch.zeros(2, 1, 3, 3, dtype=torch.int64)
    with pytest.raises(UserError, match=message):
        model.sample(2, x=x, mask=mask)


def test_a_model_without_values_says_so(tmp_path: Path) -> None:
    """On PyTorch's device "meta" weights have shapes only; scores would be what memory held."""
    model = npx.PixelCNN(shape=(1, 3, 3), levels=4, width=4, blocks=1).to("meta")
    x = torch.zeros(2, 1, 3, 3, dtype=torch.int64)
    for use in (
        lambda: model.sample(1),
        lambda: model.log_prob(x),
        lambda: model.log_prob(x.to("meta")),
        lambda: model.bits_per_dim(x),
        lambda: model.save(tmp_path / "model"),
        model.digest,
        lambda: model.save_program(tmp_path / "model.program"),
    ):
        with pytest.raises(UserError, match="This PixelCNN has no weights on meta: load it anew"):
            use()


def test_images_of_other_integers_or_devices_are_refused() -> None:
    model = npx.PixelCNN(shape=(1, 3, 3), levels=4, width=4, blocks=1)
    x = torch.zeros(2, 1, 3, 3, dtype=torch.uint16)
    with pytest.raises(UserError, match=r"not torch.uint16: convert them, as with x.long\(\)"):
        model.log_prob(x)
    with pytest.raises(UserError, match="The images are on meta, the model is on cpu"):
        model.log_prob(x.long().to("meta"))
    assert model.log_prob(x.to(torch.uint8)).shape == (2,)
