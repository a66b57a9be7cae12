"""The contract that every model keeps, whatever is inside it.

Models, channels, levels, contexts and inputs are crossed so that every pair occurs.
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
from torch.autograd.graph import saved_tensors_hooks

from nextpixel.distributions import DiscretizedLogisticMixture
from nextpixel.errors import UserError
from nextpixel.models import (
    DiagonalBiLSTM,
    GatedPixelCNN,
    PixelCNN,
    PixelCNNPP,
    PixelSNAIL,
    RowLSTM,
)
from nextpixel.models.base.autoregressive import CausalNetwork, WholePixelNetwork
from nextpixel.models.base.image_model import load
from nextpixel.nn import CausalAttention, Site, checkpointing
from nextpixel.nn.context_bias import ContextBias
from nextpixel.sampling import sites, trace
from nextpixel.sampling.config import site_noise
from tests.helpers import randomize

SMALL: dict[type[CausalNetwork], dict[str, Any]] = {
    PixelCNN: {"width": 6, "blocks": 3, "head": 8},
    RowLSTM: {"width": 6, "blocks": 2, "head": 8},
    DiagonalBiLSTM: {"width": 6, "blocks": 2, "head": 8},
    GatedPixelCNN: {"width": 6, "blocks": 3, "kernel_size": 3},
    PixelCNNPP: {"width": 6, "blocks": 1, "components": 3},
    PixelSNAIL: {"width": 6, "blocks": 2, "layers": 1, "key": 3, "components": 3},
}
MODELS = list(SMALL)
VARIANTS: list[dict[str, Any]] = [
    {"channels": channels, "levels": levels, "inputs": inputs, **context}
    for channels, levels, inputs, context in [
        (1, 2, "scaled", {}),
        (1, 2, "embedded", {"image": (2, 3, 9)}),
        (1, 5, "embedded", {"classes": 3}),
        (1, 4, "scaled", {"classes": 3, "vector": 4, "image": (1, 6, 7)}),
        (3, 2, "scaled", {"classes": 3}),
        (3, 5, "scaled", {}),
        (3, 5, "embedded", {"vector": 4}),
        (2, 4, "scaled", {"image": (1, 12, 5)}),
    ]
]


@pytest.fixture(autouse=True)
def few_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network that looks at a context's image is small, too."""
    monkeypatch.setattr(ContextBias, "features", 8)


def can_be(cls: type[CausalNetwork], variant: dict[str, Any]) -> bool:
    """Whether there is such a model: a distribution of whole pixels has no categories in colour."""
    colour_categories = variant["channels"] > 1 and variant["inputs"] == "embedded"
    return not (issubclass(cls, WholePixelNetwork) and colour_categories)


every_model = pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
SPATIAL = {"channels": 1, "levels": 4, "classes": 3, "vector": 4, "spatial": True}
every_variant = pytest.mark.parametrize(
    ("cls", "variant"),
    [
        pytest.param(cls, variant, id="-".join([cls.__name__, *map(str, variant.values())]))
        for cls in MODELS
        for variant in VARIANTS
        if can_be(cls, variant)
    ]
    + [pytest.param(GatedPixelCNN, SPATIAL, id="GatedPixelCNN-spatial")],
)


def make(cls: type[CausalNetwork], **arguments: Any) -> CausalNetwork:
    """A small network with random weights everywhere, in float64."""
    torch.manual_seed(0)
    height, width = arguments.pop("size", (6, 7))
    shape = (arguments.pop("channels", 1), height, width)
    model = cls(shape=shape, **{**SMALL[cls], **arguments}).double().eval()
    # Large enough for tanh and sigmoid to be nowhere near linear.
    randomize(model, 1 if isinstance(model, WholePixelNetwork) else 1.5)
    if isinstance(model, WholePixelNetwork):
        # Else the mixture's scales are as narrow as they may be: a level costs 1e5 nats.
        for parameter in model.last.parameters():
            parameter.data *= 0.1
    return model


def images(model: CausalNetwork, n: int, seed: int = 0) -> tuple[Tensor, Any]:
    """Random images, and whatever contexts the model takes."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(model.levels, (n, *model.shape), generator=random)
    classes, vector, image, _ = model.context_spec
    c: dict[str, Tensor] = {}
    if classes is not None:
        c["classes"] = torch.randint(classes, (n,), generator=random)
    if vector is not None:
        c["vector"] = torch.randn(n, vector, generator=random)
    if image is not None:
        c["image"] = torch.randn(n, *image, generator=random)
    return x, c if len(c) > 1 else next(iter(c.values()), None)


def parameters_of(model: CausalNetwork, x: Tensor, c: object) -> Tensor:
    """The distributions' parameters as `(B, sites, P)`, in the order of generation."""
    maps = [t for t in vars(model(x, c)).values() if isinstance(t, Tensor)]
    maps = [t if t.ndim == 5 else t[..., None] for t in maps]
    return torch.cat(maps, -1).movedim(1, 3).flatten(1, 3)


def dependencies(model: CausalNetwork, n: int = 4) -> Tensor:
    """Which sites each site's parameters depend on: booleans `(sites, sites)` from the Jacobian.

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
        by_channel = (gradient != 0).any(0).unflatten(0, (model.shape[0], -1)).any(1)
        rows.append(by_channel.movedim(0, 2).flatten())
    del model.encode
    return torch.stack(rows)


# --- causal by proof ------------------------------------------------------------------------------


@every_variant
def test_jacobian_is_zero_from_the_site_on(cls: type[CausalNetwork], variant: Any) -> None:
    seen = dependencies(make(cls, **variant))
    assert not seen.triu().any()
    assert seen.any()


@every_variant
def test_changing_the_future_changes_nothing(cls: type[CausalNetwork], variant: Any) -> None:
    model = make(cls, **variant)
    x, c = images(model, 3)
    parameters = parameters_of(model, x, c)
    other = (x + torch.randint(1, model.levels, x.shape)) % model.levels
    for i, site in enumerate(sites(model.shape)):
        result = parameters_of(model, with_future(x, site, other), c)
        assert torch.equal(result[:, : i + 1], parameters[:, : i + 1]), site
    assert not torch.equal(parameters_of(model, other, c), parameters)


def with_future(x: Tensor, site: Site, other: Tensor) -> Tensor:
    """The images x, but from a site on those of `other`."""
    steps = torch.arange(x[0].numel()).view(x.shape[2], x.shape[3], x.shape[1]).movedim(2, 0)
    channel = (site.channel, site.row, site.col)
    changed = torch.where(steps < steps[channel], x, other)
    return changed.flatten().view_as(x)  # convolutions round differently on other strides


def field(model: CausalNetwork, sees: Callable[[int, int], bool]) -> Tensor:
    """The sites that should be seen: `sees(rows up, columns to the right)`."""
    order = list(sites(model.shape))
    seen = [
        j.channel < i.channel if j[:2] == i[:2] else sees(i.row - j.row, j.col - i.col)
        for i, j in itertools.product(order, order)
    ]
    return torch.tensor(seen).view(len(order), -1)


@pytest.mark.parametrize("channels", [1, 3])
def test_gated_has_no_blind_spot(channels: int) -> None:
    blocks = 3
    arguments = {"channels": channels, "levels": 4, "width": 24}
    model = make(GatedPixelCNN, size=(9, 11), blocks=blocks, **arguments)
    reach = 3 + blocks - 1

    def sees(up: int, right: int) -> bool:
        # 7x7 sees 3 rows above and the vertical stack's shift adds one; 3x3 adds one a layer.
        return -reach <= right < 0 if up == 0 else 0 < up <= reach + 1 and abs(right) <= reach

    assert torch.equal(dependencies(model), field(model, sees))


def test_gated_sees_everything_before_when_it_is_deep_enough() -> None:
    model = make(GatedPixelCNN, size=(4, 9), levels=4, blocks=7, width=8)
    seen = dependencies(model, n=8)
    assert torch.equal(seen, torch.ones_like(seen).tril(-1))


@pytest.mark.parametrize(("blocks", "channels"), [(1, 1), (3, 1), (1, 3)])
def test_plain_blind_spot_is_where_the_paper_says(blocks: int, channels: int) -> None:
    arguments = {"channels": channels, "levels": 4, "width": 24, "head": 24}
    model = make(PixelCNN, size=(9, 13), blocks=blocks, **arguments)
    reach = 3 + blocks

    def sees(up: int, right: int) -> bool:
        # On the row d above, columns up to x + min(d, L + 1) + 2 (figure 1 of the gated paper).
        if up == 0:
            return -reach <= right < 0
        return 0 < up <= reach and -reach <= right <= min(up, blocks + 1) + 2

    seen = dependencies(model, n=8)
    assert torch.equal(seen, field(model, sees))


@pytest.mark.parametrize(("blocks", "channels"), [(1, 1), (2, 1), (1, 3)])
def test_row_lstm_sees_a_triangle(blocks: int, channels: int) -> None:
    arguments = {"channels": channels, "levels": 4, "width": 24, "head": 24}
    model = make(RowLSTM, size=(8, 15), blocks=blocks, **arguments)

    def sees(up: int, right: int) -> bool:
        # The state widens by a column a row on both sides; the kernels along the row reach one
        # further to the left each, and the 7x7 start reaches 3.
        return up >= 0 and -3 - blocks - up <= right <= (up + 2 if up else -1)

    assert torch.equal(dependencies(model, n=8), field(model, sees))


@pytest.mark.parametrize(("blocks", "channels"), [(1, 1), (3, 1), (1, 3)])
def test_diagonal_bilstm_sees_everything_before(blocks: int, channels: int) -> None:
    """Everything but for one site: the last one of the row above, from far to its left.

    The maps of the row above never hold it, as each of them sees what is before its own site; in
    the row below it is known to the 7x7 start near the right edge, where a state from the left has
    not been yet.
    """
    last = (11, channels - 1)
    arguments = {"channels": channels, "levels": 4, "width": 24, "head": 24}
    model = make(DiagonalBiLSTM, size=(6, 12), blocks=blocks, **arguments)
    order = list(sites(model.shape))
    everything = [
        j < i and not (j.row == i.row - 1 and j[1:] == last and i.col < 8)
        for i, j in itertools.product(order, order)
    ]
    expected = torch.tensor(everything).view(len(order), -1)
    assert torch.equal(dependencies(model, n=8), expected)


def test_pixel_snail_sees_everything_before() -> None:
    model = make(PixelSNAIL, channels=3, size=(5, 9), levels=4, width=12, blocks=1)
    seen = dependencies(model, n=8)
    assert torch.equal(seen, torch.ones_like(seen).tril(-1))


def test_pixel_cnn_pp_has_no_blind_spot() -> None:
    model = make(PixelCNNPP, channels=1, size=(8, 13), levels=4, width=12, stages=1, blocks=2)

    def sees(up: int, right: int) -> bool:
        # The first layers see 2 rows up and 1 column aside. Each of the 2 convolutions of the 4
        # layers adds a row and a column, in the vertical stack on both sides; after it comes one
        # more of the horizontal stack.
        return -9 <= right < 0 if up == 0 else 0 < up <= 11 and -10 <= right <= 9

    assert torch.equal(dependencies(model, n=8), field(model, sees))


# --- exact ----------------------------------------------------------------------------------------


@every_variant
def test_probabilities_of_all_images_sum_to_one(cls: type[CausalNetwork], variant: Any) -> None:
    colour = variant["channels"] > 1
    levels = 2 if colour else min(3, variant["levels"])
    model = make(cls, **{**variant, "levels": levels}, size=(2, 2) if colour else (2, 3))
    sites_in_all = math.prod(model.shape)
    every = torch.tensor(list(itertools.product(range(levels), repeat=sites_in_all)))
    c = images(model, 1)[1]
    with torch.no_grad():
        total = model.log_prob(every.view(-1, *model.shape), c).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-6)


@every_variant
@pytest.mark.parametrize("size", [(6, 7), (1, 1), (1, 5), (5, 1), (9, 3)])
def test_cached_equals_parallel(
    cls: type[CausalNetwork], variant: Any, size: tuple[int, int]
) -> None:
    model = make(cls, **variant, size=size)
    x, c = images(model, 3)
    whole = model(x, c)
    cache = model.start(3, c)
    with torch.no_grad():
        for site in sites(model.shape):
            # What comes later must not matter, whatever stands there.
            step = model.step(with_future(x, site, torch.zeros_like(x)), site, cache)
            for name, value in vars(whole.at(*site)).items():
                torch.testing.assert_close(
                    vars(step)[name], value, rtol=0, atol=1e-9, msg=f"{name} at {site}"
                )


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
        for row, col, channel in sites(model.shape):
            distribution = model(x, c).at(row, col, channel)
            x[:, channel, row, col] = distribution.sample(noise[:, channel, row, col])
    return x


@every_variant
def test_the_engine_computes_what_full_passes_do(cls: type[CausalNetwork], variant: Any) -> None:
    """Site by site, with other images in the batch than before, as particles have."""
    model = make(cls, **variant, size=(9, 10) if cls is PixelCNNPP else (6, 7)).float()
    for n in (1, 4):
        _, c = images(model, n)
        x = model.sample(n, c)
        with torch.no_grad():
            whole = model(x, c)
        for step in trace(model, n, c, sampler="engine"):
            for name, value in vars(whole.at(*step.site)).items():
                torch.testing.assert_close(
                    vars(step.distribution)[name], value, rtol=1e-4, atol=2e-5, msg=str(step.site)
                )
        assert torch.equal(step.x, x)
        assert torch.equal(model.sample(n, c, sampler="cached"), x)  # no tie among so few pixels


@every_variant
def test_images_put_in_the_places_of_others_go_on(cls: type[CausalNetwork], variant: Any) -> None:
    """Also within a row and between the channels of a pixel."""
    size = (9, 7) if cls is PixelCNNPP else (6, 7)
    model = make(cls, **variant, size=size)
    x, given = images(model, 4)
    c = model.context(given, 4)
    random = torch.Generator().manual_seed(3)
    with torch.inference_mode():
        cache, whole = model.start(4, c), model(x, c)
        for number, site in enumerate(sites(model.shape), 1):
            step = model.step(with_future(x, site, torch.zeros_like(x)), site, cache)
            for name, value in vars(whole.at(*site)).items():
                torch.testing.assert_close(
                    vars(step)[name], value, rtol=0, atol=1e-9, msg=f"{name} at {site}"
                )
            if number % 8 == 0:
                chosen = torch.randint(4, (4,), generator=random)
                cache.select(chosen)
                if c is not None:
                    c = c[chosen]
                    for part, same in zip(
                        vars(c).values(), vars(cache.context).values(), strict=True
                    ):
                        assert part is same or torch.equal(part, same)
                # Else all would soon be the same image.
                later = torch.randint(model.levels, x.shape, generator=random)
                x = with_future(x[chosen], following(model, site), later)
                whole = model(x, c)


def following(model: CausalNetwork, site: Site) -> Site:
    """The next site; after the last one, it again."""
    order = list(sites(model.shape))
    return order[min(order.index(site) + 1, len(order) - 1)]


@every_variant
def test_all_samplers_draw_the_same(cls: type[CausalNetwork], variant: Any) -> None:
    model = make(cls, **variant)
    known, c = images(model, 3)
    mask = torch.zeros(model.shape, dtype=torch.bool)
    mask[:, 2:4, 1:5] = True
    for kept in ({}, {"x": known, "mask": mask}):
        full = model.sample(3, c, sampler="full", **kept)
        for sampler in ("auto", "cached", "fixed-point"):
            assert torch.equal(model.sample(3, c, sampler=sampler, **kept), full), sampler


@every_model
@pytest.mark.parametrize("channels", [1, 3])
def test_float32_samples_differ_only_at_ties(cls: type[CausalNetwork], channels: int) -> None:
    """Under a shared history, rounding may flip a draw only where the noise hits an edge."""
    model = make(cls, channels=channels, levels=5, size=(8, 8)).float()
    noise = site_noise(model.shape, 0, range(16))
    cache, x = model.start(16), model.sample(16)
    with torch.no_grad():
        whole = model(x)
        for site in sites(model.shape):
            step = model.step(x, site, cache)
            at_site = noise[:, site.channel, site.row, site.col]
            a, b = step.sample(at_site), whole.at(*site).sample(at_site)
            edges = step.pmf().cumsum(-1)
            distance = (edges - at_site[..., None]).abs().amin(-1)
            assert bool(((a == b) | (distance < 1e-5)).all()), site


@every_model
def test_cache_grows_with_a_row_only(cls: type[CausalNetwork]) -> None:
    """All but the keys and the values of attention, which are kept for every site."""

    def size(height: int, width: int) -> int:
        model = make(cls, levels=4, size=(height, width))
        *_, last = trace(model, 1)
        assert last.site == (height - 1, width - 1, 0)
        cache = model.start(1)
        for site in sites(model.shape):
            model.step(last.x, site, cache)
        attention = [layer for layer in cache.layers if isinstance(layer, CausalAttention)]
        for layer in attention:
            assert cache.layers[layer][0].shape == (1, 1, 3, height * width)
            del cache.layers[layer]
        assert (len(attention) > 0) == (cls is PixelSNAIL)
        return cache.nbytes()

    with torch.inference_mode():
        assert size(5, 6) == size(15, 6)
        assert size(5, 6) < size(5, 12) < 2.2 * size(5, 6)


# --- scores, samples, completions -----------------------------------------------------------------


@every_variant
def test_log_prob_is_the_sum_over_sites(cls: type[CausalNetwork], variant: Any) -> None:
    model = make(cls, **variant)
    x, c = images(model, 3)
    log_prob = model.log_prob(x, c)
    assert log_prob.shape == (3,)
    torch.testing.assert_close(log_prob, model(x, c).log_prob(x).sum((1, 2, 3)))
    dims = variant["channels"] * 6 * 7
    torch.testing.assert_close(model.bits_per_dim(x, c), -log_prob / (dims * math.log(2)))


@every_model
def test_picture_depends_on_seed_and_number_only(cls: type[CausalNetwork]) -> None:
    model = make(cls, levels=5, classes=3)
    c = torch.tensor([0, 1, 2, 0, 1, 2])
    together = model.sample(6, c, seed=7)
    assert torch.equal(model.sample(6, c, seed=7, batch_size=4), together)
    assert torch.equal(model.sample(1, 1, seed=7, numbers=[4]), together[4:5])
    assert not torch.equal(model.sample(6, c, seed=8), together)
    state = torch.get_rng_state()
    model.sample(2, 0)
    assert torch.equal(torch.get_rng_state(), state)


@every_model
def test_drawing_in_the_middle_of_training_has_no_dropout(cls: type[CausalNetwork]) -> None:
    model = make(cls, levels=5)
    drawn = model.sample(2)
    assert torch.equal(model.train().sample(2), drawn)
    assert model.training
    # Two drawings at once, and one that is left unfinished, change nothing either.
    for one, other in zip(trace(model, 2), trace(model, 2), strict=True):
        assert model.training
        assert torch.equal(one.x, other.x)
    assert torch.equal(other.x, drawn)


@every_variant
def test_completion_keeps_the_known_pixels(cls: type[CausalNetwork], variant: Any) -> None:
    model = make(cls, **variant)
    x, c = images(model, 3)
    mask = torch.rand(3, *model.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    completed = model.sample(3, c, x=x, mask=mask, seed=1)
    assert torch.equal(completed[mask], x[mask])
    assert torch.equal(model.sample(3, c, x=x, mask=torch.ones_like(mask)), x)
    nothing = model.sample(3, c, x=x, mask=torch.zeros_like(mask), seed=1)
    assert torch.equal(nothing, model.sample(3, c, seed=1))
    one = model.sample(3, c, x=x[0], mask=mask[0], seed=1)
    assert torch.equal(one[:, mask[0]], x[0][mask[0]].expand(3, -1))


@every_model
def test_temperature_near_zero_takes_the_likeliest_level(cls: type[CausalNetwork]) -> None:
    model = make(cls, levels=4)
    drawn = model.sample(2, temperature=1e-6)
    distribution = model(drawn)
    likeliest = distribution.pmf().argmax(-1)
    if isinstance(distribution, DiscretizedLogisticMixture):  # the mode of its likeliest component
        component = distribution.logits.argmax(-1, keepdim=True)
        mean = distribution.means.gather(-1, component).squeeze(-1)
        likeliest = ((mean + 1) / 2 * 3).round().long().clamp(0, 3)
    assert torch.equal(drawn, likeliest)


@every_model
def test_class_weights_mix_classes(cls: type[CausalNetwork]) -> None:
    model = make(cls, levels=4, classes=3)
    x, _ = images(model, 2)
    one_hot = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert torch.equal(model.log_prob(x, one_hot), model.log_prob(x, torch.tensor([1, 2])))
    assert torch.equal(model.log_prob(x, one_hot[0]), model.log_prob(x, 1))
    mix = torch.tensor([0.5, 0.5, 0.0])
    assert not torch.equal(model.log_prob(x, mix), model.log_prob(x, 0))
    assert torch.equal(model.sample(2, mix), full_pass_samples(model, 2, mix, seed=0))
    assert not torch.equal(model.log_prob(x, 0), model.log_prob(x, 1))


# --- training, saving -----------------------------------------------------------------------------


@every_variant
def test_gradient_reaches_every_parameter(cls: type[CausalNetwork], variant: Any) -> None:
    model = make(cls, **variant)
    x, c = images(model, 8)
    model.log_prob(x, c).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@every_variant
def test_recomputed_activations_give_the_same_gradient(
    cls: type[CausalNetwork], variant: Any
) -> None:
    """With dropout where the model has it, and with less kept for the backward pass."""
    model = make(cls, **variant).train()
    x, c = images(model, 3)

    def run(recomputed: bool) -> tuple[list[Tensor], int]:
        kept = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        torch.manual_seed(1)
        with checkpointing(recomputed), saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model.log_prob(x, c).sum()
        return list(torch.autograd.grad(loss, list(model.parameters()))), kept

    (plain, before), (again, after) = run(False), run(True)
    assert after < 0.8 * before
    for a, b in zip(plain, again, strict=True):
        assert torch.equal(a, b)


@every_model
@pytest.mark.parametrize("channels", [1, 3])
def test_scores_stay_float32_under_autocast(cls: type[CausalNetwork], channels: int) -> None:
    model = make(cls, channels=channels, levels=5).float()
    x, _ = images(model, 2)
    with torch.autocast("cpu", torch.bfloat16):
        for values in vars(model(x)).values():
            if isinstance(values, Tensor):
                assert values.dtype == torch.float32
                # Not just raised at the end: they have more bits than half precision holds.
                assert not torch.equal(values, values.bfloat16().float())
        log_prob = model.log_prob(x)
        assert log_prob.dtype == torch.float32
    log_prob.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all(), name


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
    assert make(cls, channels=3, width=3).shape[0] == 3
    for nothing in ({"width": 0}, {"blocks": 0}, {"classes": 0}, {"levels": 1}, {"inputs": "raw"}):
        with pytest.raises(UserError):
            make(cls, **nothing)
    with pytest.raises(UserError, match="temperature"):
        model.sample(1, 0, temperature=0.0)
    with pytest.raises(UserError, match="go together"):
        model.sample(1, 0, x=x)
