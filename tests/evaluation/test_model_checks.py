"""Checks of models find what they are made for, and pass right models."""

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nextpixel as npx
from nextpixel import AutoregressiveModel, Categorical, UserError
from nextpixel.evaluation import model_checks as checks
from nextpixel.evaluation.dependence import dependence, view, viewpoint
from nextpixel.evaluation.receptive_field import pixels_before
from nextpixel.models import GatedPixelCNN, PixelCNN, PixelSNAIL
from nextpixel.nn import Site
from tests.helpers import small_mnist

SHAPE = (1, 6, 6)


class Net(AutoregressiveModel):
    """A convolution whose kernel sees what `flaw` says, and is otherwise causal."""

    def __init__(
        self, *, shape: tuple[int, int, int], levels: int, flaw: str = "none", normal: bool = False
    ) -> None:
        super().__init__(shape=shape, levels=levels, flaw=flaw, normal=normal)
        self.flaw, channels = flaw, shape[0]
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        mask = torch.zeros(3, 3)
        mask[0], mask[1, 0] = 1, 1
        mask[1, 1] = flaw in ("itself", "impossible-itself")
        mask[1, 2] = flaw == "right"
        mask[2, 1] = flaw == "below"
        self.register_buffer("mask", mask)
        if flaw == "once":  # the mask is gone after a step of training
            self.conv.weight.data *= mask
        if flaw == "zero":  # nothing is seen before the first step of training
            mask[1, 1] = 1
        self.norm = nn.BatchNorm2d(8) if normal else None
        self.spare = nn.Linear(3, 3) if flaw == "unused" else None
        self.last = nn.Conv2d(8, channels * levels, 1)
        if flaw == "zero":
            nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, c: object = None) -> Categorical:
        weight = self.conv.weight if self.flaw == "once" else self.conv.weight * self.mask
        h = F.conv2d(x.to(self.dtype) - 1, weight, self.conv.bias, padding=1)
        h = h if self.norm is None else self.norm(h)
        if self.flaw == "single":
            h = h + torch.zeros(1, dtype=torch.float32) * 0  # of another type than the weights
        logits = self.last(torch.tanh(h)).unflatten(1, (self.shape[0], self.levels))
        if self.flaw == "tensor":
            return logits  # type: ignore[return-value]
        if self.flaw in ("nan", "impossible", "impossible-itself"):
            bad = math.nan if self.flaw == "nan" else -math.inf
            logits = logits.index_fill(2, torch.tensor([0]), bad)
        if self.flaw == "unnormalised":
            return Unnormalised(logits.movedim(2, -1))
        return Categorical(logits.movedim(2, -1))


class Unnormalised(Categorical):
    """Probabilities that are twice what they should be."""

    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x) + np.log(2)


class FirstChannel(Net):
    """All channels see channel 0 alone."""

    def forward(self, x: Tensor, c: object = None) -> Categorical:
        return super().forward(x[:, :1].expand_as(x), c)


def net(flaw: str = "none", **arguments: Any) -> Net:
    torch.manual_seed(0)
    return Net(**{"shape": SHAPE, "levels": 3, "flaw": flaw, **arguments})


@pytest.mark.parametrize("side", [6, 20])  # all sites are tried, or some
@pytest.mark.parametrize(
    ("flaw", "step"),
    [("itself", (0, 0)), ("right", (0, 1)), ("below", (1, 0)), ("once", None), ("zero", (0, 0))],
)
def test_a_leak_is_found_with_its_pixels(
    flaw: str, step: tuple[int, int] | None, side: int
) -> None:
    leak = checks.find_leak(net(flaw, shape=(1, side, side)))
    assert leak is not None
    assert leak.source is not None
    found = leak.source.row - leak.target.row, leak.source.col - leak.target.col
    assert found >= (0, 0)
    assert step is None or found == step
    assert not leak.training
    assert checks.check_causal(net(flaw), leak).passed is False


def test_a_channel_that_sees_a_later_one_is_a_leak() -> None:
    leak = checks.find_leak(net("itself", shape=(3, 4, 4)))
    assert leak is not None
    assert leak.source is not None
    assert leak.source[:2] == leak.target[:2]
    assert leak.source.channel >= leak.target.channel
    assert "channel" in leak.in_words(3)


def test_batch_normalisation_leaks_in_training() -> None:
    leak = checks.find_leak(net(normal=True))
    assert leak is not None
    assert leak.training
    assert "in training mode" in leak.in_words(1)


@pytest.mark.parametrize("flaw", ["none", "unused", "unnormalised", "single"])
def test_no_false_alarm(flaw: str) -> None:
    assert checks.find_leak(net(flaw)) is None


@pytest.mark.parametrize(
    "model",
    [
        GatedPixelCNN(shape=(3, 5, 6), levels=4, width=12, blocks=2, kernel_size=3, classes=3),
        PixelCNN(shape=(1, 9, 9), levels=2, width=6, blocks=2, vector=4),
        PixelSNAIL(shape=(1, 6, 7), levels=4, width=8, blocks=1, layers=1, key=4),
        npx.RowLSTM(shape=(1, 6, 7), levels=4, width=6, blocks=1, image=(1, 6, 7)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_models_of_the_papers_pass(model: Any) -> None:
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert checks.find_leak(model) is None
    for check in (checks.check_sum, checks.check_cache, checks.check_gradients):
        assert check(model).passed is True, check(model).reason
    site = viewpoint(model.shape)
    strength = dependence(model, site)
    future = ~pixels_before(site, *model.shape[1:]).numpy()
    assert strength[~future].any()
    future[site[:2]] = False
    assert not strength[future].any()
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert model.training


def test_probabilities_that_do_not_sum_to_1_are_found() -> None:
    assert checks.check_sum(net()).passed is True
    assert checks.check_sum(net("unnormalised")).passed is False
    assert checks.check_sum(net("right")).passed is False


@pytest.mark.parametrize(
    ("channels", "levels", "words"),
    [
        (1, 3, "the 729 images of 2 x 3 pixels and 3 levels: 1.000000000"),
        (1, 8, "the 729 images of 2 x 3 pixels and 3 levels: 1.000000000"),
        (1, 2, "the 64 images of 2 x 3 pixels and 2 levels: 1.000000000"),
        (2, 3, "the 4,096 images of 2 x 3 pixels and 2 levels: 1.000000000"),
        (3, 3, "the 729 images of 1 x 2 pixels and 3 levels: 1.000000000"),
    ],
)
def test_the_sum_is_over_few_images(channels: int, levels: int, words: str) -> None:
    assert checks.check_sum(net(shape=(channels, 6, 6), levels=levels)).reason == words


def test_weights_without_gradient_are_named() -> None:
    finding = checks.check_gradients(net("unused"))
    assert finding.passed is False
    assert "spare.bias, spare.weight" in finding.reason
    assert checks.check_gradients(net()).passed is True


def test_a_leak_is_found_beside_impossible_levels() -> None:
    assert checks.find_leak(Net(shape=SHAPE, levels=4, flaw="impossible")) is None
    assert checks.find_leak(Net(shape=SHAPE, levels=4, flaw="impossible-itself")) is not None


def test_nan_is_no_pass() -> None:
    net = Net(shape=SHAPE, levels=4, flaw="nan")
    causal = checks.check_causal(net, checks.find_leak(net))
    assert causal == ("causal", False, "its distributions have NaN or infinite parameters")
    gradients = checks.check_gradients(net)
    assert gradients.passed is False
    assert "NaN or infinite at conv.bias, conv.weight, last.bias" in gradients.reason


def test_a_forward_that_returns_no_distribution_is_refused() -> None:
    with pytest.raises(UserError, match="forward of Net returns a Tensor: return a distribution"):
        checks.find_leak(Net(shape=SHAPE, levels=4, flaw="tensor"))


class WrongCache(PixelCNN):
    """A model whose steps forget what is above."""

    def step(self, x: Tensor, site: Site, cache: Any) -> Any:
        if site == (1, 0, 0):
            for tensors in cache.layers.values():
                for tensor in vars(tensors).values() if hasattr(tensors, "__dict__") else tensors:
                    if isinstance(tensor, Tensor):
                        tensor.zero_()
        return super().step(x, site, cache)


def test_a_wrong_cache_is_found() -> None:
    arguments: dict[str, Any] = {"shape": (1, 6, 7), "levels": 4, "width": 6, "blocks": 2}
    finding = checks.check_cache(WrongCache(**arguments))
    assert finding.passed is False
    assert "row 1" in finding.reason
    assert checks.check_cache(PixelCNN(**arguments)).passed is True
    assert checks.check_cache(net()).passed is None


class AlmostRight(PixelCNN):
    """A model whose steps differ from full passes by more than float64 rounds."""

    def step(self, x: Tensor, site: Site, cache: Any) -> Any:
        logits = super().step(x, site, cache).logits  # type: ignore[attr-defined]
        return Categorical(logits + 1e-6 * torch.arange(self.levels))


def test_a_small_error_of_the_cache_is_found_in_float64() -> None:
    model = AlmostRight(shape=(1, 6, 7), levels=4, width=6, blocks=2)
    finding = checks.check_cache(model)
    assert finding.passed is False
    assert "at 6 x 7 the first that does is row 0, column 0" in finding.reason


class OnlyTiny(Net):
    """A model that can compute images of a single pixel only."""

    def forward(self, x: Tensor, c: object = None) -> Categorical:
        if x.shape[2:] != (1, 1):
            raise RuntimeError("no")
        return super().forward(x, c)


def test_sizes_that_a_model_cannot_compute_are_passed_over() -> None:
    finding = checks.check_sum(OnlyTiny(shape=SHAPE, levels=3))
    assert finding.passed is True
    assert finding.reason == "the 3 images of 1 x 1 pixels and 3 levels: 1.000000000"


def test_random_weights_keep_activations_near_1() -> None:
    model = net()
    model.wide = nn.Linear(400, 500)
    checks.randomize(model)
    assert model.wide.weight.std().item() == pytest.approx(1 / 20, rel=0.02)
    assert model.wide.bias.std().item() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(
    ("unseen", "untried", "words"),
    [
        ([], [], "sees all pixels before it"),
        ([(2, 5)], [], "does not see 1 of the 31 pixels before it; the nearest is 2 up, 2 to the "
         "right"),
        ([(0, 3), (3, 0)], [], "does not see 2 of the 31 pixels before it; the nearest is 4 up, "
         "straight above"),
        ([(3, 0), (0, 6)], [], "does not see 2 of the 31 pixels before it; the nearest is 1 up, "
         "3 to the left"),
        ([], [(0, 0), (0, 1)], "sees all pixels before it (2 further pixels were not tried)"),
        ([(4, 1)], [(0, 0), (6, 6)], "does not see 1 of the 31 pixels before it; the nearest is 0 "
         "up, 2 to the left (1 further pixels were not tried)"),
    ],
)  # fmt: skip
def test_blind_spots_in_words(
    unseen: list[tuple[int, int]], untried: list[tuple[int, int]], words: str
) -> None:
    strength = np.ones((7, 7))
    strength[4, 3:] = strength[5:] = 0
    for place in unseen:
        strength[place] = 0
    for place in untried:
        strength[place] = np.nan
    found = view(net(shape=(1, 7, 7)), Site(4, 3), strength)
    if unseen:  # worth knowing, and no fault
        assert found == ("blind spot", None, f"row 4, column 3 {words}")
    else:
        said = f"at 7 x 7, row 4, column 3 {words}; larger images may have a blind spot"
        assert found == ("blind spot", True, said)


def test_the_blind_spot_is_described() -> None:
    model, site = net(shape=(1, 7, 7)), Site(4, 3, 0)
    strength = dependence(model, site)
    assert np.argwhere(strength > 0).tolist() == [[3, 2], [3, 3], [3, 4], [4, 2]]
    finding = view(model, site, strength)
    assert finding.passed is None
    assert "does not see 27 of the 31 pixels before it; the nearest is" in finding.reason
    leaky = dependence(net("right", shape=(1, 7, 7)), site)
    assert leaky[4, 4] > 0


def test_dependence_changes_no_channel_before_the_site_and_no_pixel_far_away() -> None:
    """A model without masks: every channel sees all channels of its own and of the left pixel."""
    model, site = net("itself", shape=(3, 2, 13)), Site(1, 1, 1)
    strength = dependence(model, site)
    assert (strength[1, :2] > 0).all()  # itself through channels 1 and 2, and on the left
    assert np.isnan(strength).tolist() == [[col > 11 for col in range(13)]] * 2
    strength = dependence(FirstChannel(shape=(3, 2, 13), levels=3, flaw="itself"), site)
    assert strength[1, 1] == 0  # channel 0 comes before channel 1
    assert strength[1, 0] > 0


@pytest.mark.parametrize(
    ("side", "passed", "reason"),
    [
        (6, True, "at 6 x 6, row 4, column 3 sees all pixels before it; larger images may have a"),
        (14, None, "row 9, column 7 does not see 6 of the 133 pixels before it; the nearest is 1 "),
    ],
)
def test_small_images_hide_the_blind_spot(side: int, passed: bool | None, reason: str) -> None:
    model = PixelCNN(shape=(1, side, side), levels=4, width=16, head=16)
    site = viewpoint(model.shape)
    finding = view(model, site, dependence(model, site))
    assert finding.passed is passed
    assert finding.reason.startswith(reason)


def test_large_images_show_it() -> None:
    model, site = GatedPixelCNN(shape=(1, 21, 21), levels=2, width=2, blocks=1), Site(1, 1)
    finding = view(model, site, np.ones((21, 21)))
    assert finding.reason == "at 21 x 21, row 1, column 1 sees all pixels before it"


def test_training_refuses_a_leak(tmp_path: Path) -> None:
    data = small_mnist(slice(8, 14), 16, 8, 8)
    with pytest.raises(UserError, match=r"Net is not causal, row .* sees itself, so its scores"):
        npx.fit(net("itself", levels=4), data, out=tmp_path / "leaky", steps=1, device="cpu")
    assert not (tmp_path / "leaky").exists()
    npx.fit(net(levels=4), data, out=tmp_path / "right", steps=1, batch_size=4, device="cpu")


def test_a_model_that_cannot_be_copied_is_trained_with_a_warning() -> None:
    model = net()
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.warns(UserWarning, match="Net is trained without a check that it is causal"):
        checks.refuse_leak(model)


def test_the_check_before_training_leaves_the_random_numbers() -> None:
    model = net()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    checks.refuse_leak(model)
    assert torch.equal(torch.rand(3), expected)
