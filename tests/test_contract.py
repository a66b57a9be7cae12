"""The contract that every model keeps, whatever is inside it.

Models, levels, contexts and inputs are crossed so that every pair occurs.
"""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nextpixel.errors import UserError
from nextpixel.model import CausalNetwork, load
from nextpixel.models import GatedPixelCNN, PixelCNN
from nextpixel.nn import Site
from nextpixel.sampling import site_noise, trace

MODELS = [PixelCNN, GatedPixelCNN]
VARIANTS: list[dict[str, Any]] = [
    {"levels": 2, "classes": None, "inputs": "scaled"},
    {"levels": 2, "classes": 3, "inputs": "embedded"},
    {"levels": 5, "classes": 3, "inputs": "scaled"},
    {"levels": 5, "classes": None, "inputs": "embedded"},
]
Make = Callable[..., CausalNetwork]

every_model = pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
every_variant = pytest.mark.parametrize(
    "variant", VARIANTS, ids=lambda v: f"{v['levels']}-{v['classes']}-{v['inputs']}"
)


def make(cls: type[CausalNetwork], **arguments: Any) -> CausalNetwork:
    """A small network with random weights everywhere, in float64."""
    torch.manual_seed(0)
    arguments = {"shape": (1, 6, 7), "width": 6, "blocks": 3, **arguments}
    if cls is GatedPixelCNN:
        arguments.setdefault("kernel_size", 3)
    model = cls(**arguments).double().eval()
    for parameter in model.parameters():
        # Large enough for tanh and sigmoid to be nowhere near linear.
        torch.nn.init.normal_(parameter, std=2 / math.sqrt(max(1, parameter[0].numel())))
    return model


def images(model: CausalNetwork, n: int, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(model.levels, (n, *model.shape), generator=random)
    c = None
    if model.classes is not None:
        c = torch.randint(model.classes, (n,), generator=random)
    return x, c


def sites(model: CausalNetwork) -> list[Site]:
    _, height, width = model.shape
    return [Site(row, col) for row in range(height) for col in range(width)]


def parameters_of(model: CausalNetwork, x: Tensor, c: object) -> Tensor:
    """The distributions' parameters as `(B, H * W, P)`."""
    logits = model(x, c).logits
    return logits.flatten(1, 3) if logits.ndim == 5 else logits.flatten(1)[..., None]


def dependencies(model: CausalNetwork, n: int = 4) -> Tensor:
    """Which sites each site's parameters depend on: `(H * W, H * W)` booleans from the Jacobian.

    The union over a few random inputs, and over all parameters through random weights on them.
    """
    x, c = images(model, n)
    encoded = model.encode(x).detach().requires_grad_()
    model.encode = lambda x: encoded  # type: ignore[method-assign]
    parameters = parameters_of(model, x, c)
    weights = torch.randn_like(parameters)
    rows = []
    for i in range(parameters.shape[1]):
        total = (parameters[:, i] * weights[:, i]).sum()
        (gradient,) = torch.autograd.grad(total, encoded, retain_graph=True)
        rows.append((gradient.flatten(2) != 0).any(1).any(0))
    del model.encode
    return torch.stack(rows)


# --- causal by proof ------------------------------------------------------------------------------


@every_model
@every_variant
def test_jacobian_is_zero_from_the_site_on(cls: type[CausalNetwork], variant: Any) -> None:
    seen = dependencies(make(cls, **variant))
    assert not seen.triu().any()
    assert seen.any()


@every_model
@every_variant
def test_changing_the_future_changes_nothing(cls: type[CausalNetwork], variant: Any) -> None:
    model = make(cls, **variant)
    x, c = images(model, 3)
    parameters = parameters_of(model, x, c)
    other = (x + torch.randint(1, model.levels, x.shape)) % model.levels
    for i, site in enumerate(sites(model)):
        changed = x.flatten(1).clone()
        changed[:, i:] = other.flatten(1)[:, i:]
        result = parameters_of(model, changed.view_as(x), c)
        assert torch.equal(result[:, : i + 1], parameters[:, : i + 1]), site
    assert not torch.equal(parameters_of(model, other, c), parameters)


def field(model: CausalNetwork, sees: Callable[[int, int], bool]) -> Tensor:
    """The sites that should be seen: `sees(rows up, columns to the right)`."""
    pairs = itertools.product(sites(model), sites(model))
    seen = [sees(i.row - j.row, j.col - i.col) for i, j in pairs]
    return torch.tensor(seen).view(len(sites(model)), -1)


def test_gated_has_no_blind_spot() -> None:
    blocks = 3
    model = make(GatedPixelCNN, shape=(1, 9, 11), levels=4, blocks=blocks, kernel_size=3)
    reach = 3 + blocks - 1

    def sees(up: int, right: int) -> bool:
        # 7x7 sees 3 rows above and the vertical stack's shift adds one; 3x3 adds one a layer.
        return -reach <= right < 0 if up == 0 else 0 < up <= reach + 1 and abs(right) <= reach

    assert torch.equal(dependencies(model), field(model, sees))


def test_gated_sees_everything_before_when_it_is_deep_enough() -> None:
    model = make(GatedPixelCNN, shape=(1, 4, 9), levels=4, blocks=7, width=8, kernel_size=3)
    seen = dependencies(model, n=8)
    assert torch.equal(seen, torch.ones_like(seen).tril(-1))


@pytest.mark.parametrize("blocks", [1, 3])
def test_plain_blind_spot_is_where_the_paper_says(blocks: int) -> None:
    model = make(PixelCNN, shape=(1, 9, 13), levels=4, width=8, blocks=blocks)
    reach = 3 + blocks

    def sees(up: int, right: int) -> bool:
        # On the row d above, columns up to x + min(d, L + 1) + 2 (figure 1 of the gated paper).
        if up == 0:
            return -reach <= right < 0
        return 0 < up <= reach and -reach <= right <= min(up, blocks + 1) + 2

    seen = dependencies(model, n=8)
    assert torch.equal(seen, field(model, sees))


# --- exact ----------------------------------------------------------------------------------------


@every_model
@every_variant
def test_probabilities_of_all_images_sum_to_one(cls: type[CausalNetwork], variant: Any) -> None:
    levels = min(3, variant["levels"])
    model = make(cls, **{**variant, "levels": levels}, shape=(1, 2, 3))
    x = torch.tensor(list(itertools.product(range(levels), repeat=6))).view(-1, 1, 2, 3)
    c = None if model.classes is None else 1
    assert model.log_prob(x, c).exp().sum().item() == pytest.approx(1, abs=1e-6)


@every_model
@every_variant
@pytest.mark.parametrize("shape", [(1, 6, 7), (1, 1, 5), (1, 5, 1), (1, 9, 3)])
def test_cached_equals_parallel(
    cls: type[CausalNetwork], variant: Any, shape: tuple[int, int, int]
) -> None:
    model = make(cls, **variant, shape=shape)
    x, c = images(model, 3)
    whole = model(x, c)
    cache = model.start(3, c)
    with torch.no_grad():
        for site in sites(model):
            # What comes later must not matter, whatever stands there.
            future = x.flatten(1).clone()
            future[:, site.row * shape[2] + site.col :] = 0
            step = model.step(future.view_as(x), site, cache)
            torch.testing.assert_close(
                step.logits, whole.at(*site).logits, rtol=0, atol=1e-9, msg=f"at {site}"
            )


@every_model
@every_variant
def test_cached_samples_equal_full_pass_samples(cls: type[CausalNetwork], variant: Any) -> None:
    model = make(cls, **variant)
    _, c = images(model, 4)
    assert torch.equal(model.sample(4, c, seed=5), full_pass_samples(model, 4, c, seed=5))


def full_pass_samples(model: CausalNetwork, n: int, c: object, seed: int) -> Tensor:
    """The obvious way: a full pass for every pixel."""
    noise = site_noise(model.shape, seed, range(n))
    x = torch.zeros(n, *model.shape, dtype=torch.int64)
    with torch.no_grad():
        for row, col in sites(model):
            x[:, :, row, col] = model(x, c).at(row, col).sample(noise[:, :, row, col])
    return x


@every_model
def test_float32_samples_differ_only_at_ties(cls: type[CausalNetwork]) -> None:
    """Under a shared history, rounding may flip a draw only where the noise hits an edge."""
    model = make(cls, levels=5, shape=(1, 8, 8)).float()
    noise = site_noise(model.shape, 0, range(16))
    cache, x = model.start(16), model.sample(16)
    with torch.no_grad():
        whole = model(x)
        for site in sites(model):
            step = model.step(x, site, cache)
            at_site = noise[:, :, site.row, site.col]
            a, b = step.sample(at_site), whole.at(*site).sample(at_site)
            edges = step.pmf().cumsum(-1)
            distance = (edges - at_site[..., None]).abs().amin(-1)
            assert bool(((a == b) | (distance < 1e-5)).all()), site


@every_model
def test_cache_grows_with_a_row_only(cls: type[CausalNetwork]) -> None:
    def size(height: int, width: int) -> int:
        model = make(cls, levels=4, shape=(1, height, width))
        *_, last = trace(model, 1)
        assert last.site == (height - 1, width - 1)
        cache = model.start(1)
        for site in sites(model):
            model.step(last.x, site, cache)
        return cache.nbytes()

    with torch.inference_mode():
        assert size(5, 6) == size(15, 6)
        assert size(5, 6) < size(5, 12) < 2.2 * size(5, 6)


# --- scores, samples, completions -----------------------------------------------------------------


@every_model
@every_variant
def test_log_prob_is_the_sum_over_sites(cls: type[CausalNetwork], variant: Any) -> None:
    model = make(cls, **variant)
    x, c = images(model, 3)
    log_prob = model.log_prob(x, c)
    assert log_prob.shape == (3,)
    torch.testing.assert_close(log_prob, model(x, c).log_prob(x).sum((1, 2, 3)))
    torch.testing.assert_close(model.bits_per_dim(x, c), -log_prob / (6 * 7 * math.log(2)))


@every_model
def test_picture_depends_on_seed_and_number_only(cls: type[CausalNetwork]) -> None:
    model = make(cls, levels=5, classes=3)
    c = torch.tensor([0, 1, 2, 0, 1, 2])
    together = model.sample(6, c, seed=7)
    assert torch.equal(model.sample(6, c, seed=7, batch_size=4), together)
    assert torch.equal(model.sample(1, 1, seed=7, first=4), together[4:5])
    assert not torch.equal(model.sample(6, c, seed=8), together)
    state = torch.get_rng_state()
    model.sample(2, 0)
    assert torch.equal(torch.get_rng_state(), state)


@every_model
@every_variant
def test_completion_keeps_the_known_pixels(cls: type[CausalNetwork], variant: Any) -> None:
    model = make(cls, **variant)
    x, c = images(model, 3)
    mask = torch.rand(3, *model.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    completed = model.sample(3, c, known=x, mask=mask, seed=1)
    assert torch.equal(completed[mask], x[mask])
    assert torch.equal(model.sample(3, c, known=x, mask=torch.ones_like(mask)), x)
    nothing = model.sample(3, c, known=x, mask=torch.zeros_like(mask), seed=1)
    assert torch.equal(nothing, model.sample(3, c, seed=1))
    one = model.sample(3, c, known=x[0], mask=mask[0], seed=1)
    assert torch.equal(one[:, mask[0]], x[0][mask[0]].expand(3, -1))


@every_model
def test_temperature_near_zero_takes_the_likeliest_level(cls: type[CausalNetwork]) -> None:
    model = make(cls, levels=4)
    drawn = model.sample(2, temperature=1e-6)
    assert torch.equal(drawn, model(drawn).pmf().argmax(-1))


@every_model
def test_class_weights_mix_classes(cls: type[CausalNetwork]) -> None:
    model = make(cls, levels=4, classes=3)
    x, _ = images(model, 2)
    one_hot = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert torch.equal(model.log_prob(x, one_hot), model.log_prob(x, torch.tensor([1, 2])))
    assert torch.equal(model.log_prob(x, one_hot[0]), model.log_prob(x, 1))
    mixed = model.log_prob(x, torch.tensor([0.5, 0.5, 0.0]))
    assert not torch.equal(mixed, model.log_prob(x, 0))
    assert not torch.equal(model.log_prob(x, 0), model.log_prob(x, 1))


# --- training, saving -----------------------------------------------------------------------------


@every_model
@every_variant
def test_gradient_reaches_every_parameter(cls: type[CausalNetwork], variant: Any) -> None:
    model = make(cls, **variant)
    x, c = images(model, 8)
    model.log_prob(x, c).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@every_model
def test_scores_stay_float32_under_autocast(cls: type[CausalNetwork]) -> None:
    model = make(cls, levels=5).float()
    x, _ = images(model, 2)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x).logits
        assert logits.dtype == torch.float32
        # Not just raised at the end: they have more bits than half precision holds.
        assert not torch.equal(logits, logits.bfloat16().float())
        assert model.log_prob(x).dtype == torch.float32


@every_model
@every_variant
def test_save_and_load(cls: type[CausalNetwork], variant: Any, tmp_path: Path) -> None:
    model = make(cls, **variant).float()
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert type(again) is cls
    assert again.hyperparameters == model.hyperparameters
    x, c = images(model, 3)
    assert torch.equal(again.log_prob(x, c), model.log_prob(x, c))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["model"] == cls.__name__
    # Saving again replaces the weights and leaves no old ones behind.
    with torch.no_grad():
        next(again.parameters()).add_(1)
    again.save(tmp_path / "model")
    assert len(list((tmp_path / "model").iterdir())) == 2
    assert not torch.equal(load(tmp_path / "model").log_prob(x, c), model.log_prob(x, c))


# --- mistakes -------------------------------------------------------------------------------------


@every_model
def test_wrong_images_and_classes_are_refused(cls: type[CausalNetwork]) -> None:
    model = make(cls, levels=4, classes=3)
    x, c = images(model, 2)
    with pytest.raises(UserError, match="integers"):
        model(x.float(), c)
    with pytest.raises(UserError, match="shape"):
        model(x[..., :-1], c)
    with pytest.raises(UserError, match=r"\[0, 4\), but these go from"):
        model(x + 3, c)
    with pytest.raises(UserError, match="needs a class"):
        model(x)
    with pytest.raises(UserError, match="no class 3"):
        model(x, 3)
    with pytest.raises(UserError, match="2 images"):
        model(x, torch.tensor([0, 1, 2]))
    with pytest.raises(UserError, match="unconditional"):
        make(cls, levels=4)(x, 0)
    with pytest.raises(UserError, match="one channel"):
        make(cls, levels=4, shape=(3, 6, 7))
    for nothing in ({"width": 0}, {"blocks": 0}, {"classes": 0}, {"levels": 1}, {"inputs": "raw"}):
        with pytest.raises(UserError):
            make(cls, **nothing)
    with pytest.raises(UserError, match="temperature"):
        model.sample(1, 0, temperature=0.0)
    with pytest.raises(UserError, match="go together"):
        model.sample(1, 0, known=x)
