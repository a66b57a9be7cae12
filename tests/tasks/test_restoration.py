"""Models that restore images: their conditioning, scores and samples."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nextpixel import load
from nextpixel.conditioning.degradation import Task
from nextpixel.data import Dataset
from nextpixel.errors import UserError
from nextpixel.evaluation.image_quality import quality
from nextpixel.evaluation.likelihood import evaluate
from nextpixel.models import GatedPixelCNN
from nextpixel.tasks.restoration import qualities, restore, score, uncertainty
from nextpixel.tasks.restoration_baselines import baseline
from nextpixel.training import fit
from tests.helpers import small_mnist


def make(task: Task, shape: tuple[int, int, int] = (1, 8, 8), **arguments: Any) -> GatedPixelCNN:
    """A model with random weights whose context matters."""
    torch.manual_seed(0)
    arguments = {"levels": 4, "width": 6, "blocks": 2, "kernel_size": 3, **arguments}
    model = GatedPixelCNN(shape=shape, image=task.context_shape(shape), **arguments).double()
    model.conditioner = task
    weight = model.condition.map_weight
    assert weight is not None
    torch.nn.init.normal_(weight, std=0.5)
    return model.eval()


def some_images(n: int, shape: tuple[int, int, int] = (1, 8, 8), levels: int = 4) -> Tensor:
    return torch.randint(levels, (n, *shape), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Real digits, every third pixel of the middle, at 4 levels."""
    return small_mnist(slice(2, 26, 3), 100, 50, 20)


def test_the_probabilities_of_all_that_hidden_pixels_may_be_sum_to_one() -> None:
    model = make(Task("inpaint"), (1, 2, 3), levels=2)
    x = some_images(1, (1, 2, 3), 2)
    known = torch.tensor([[[[True, False, False], [False, True, False]]]])
    assert isinstance(model.conditioner, Task)
    degraded = model.conditioner.from_pictures((x * 255).byte(), model.shape, 2, known)
    hidden = (~known).flatten().nonzero().flatten()
    values = torch.tensor(list(itertools.product([0, 1], repeat=len(hidden))))
    every = x.flatten().repeat(len(values), 1)
    every[:, hidden] = values
    context = model.context(degraded.image, 1)
    assert context is not None
    c = context[torch.zeros(len(values), dtype=torch.int64)]
    nats = model.log_prob(every.view(-1, *model.shape), c, known)
    assert nats.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert nats.exp().std() > 0.001  # they are not all the same


def test_a_hidden_pixel_depends_on_known_ones_after_it() -> None:
    model = make(Task("inpaint"))
    x = some_images(1)
    known = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    known[..., 0, 0] = False
    other = x.clone()
    other[..., 7, 7] = 3 - other[..., 7, 7]
    of_first = [
        model(x, Task("inpaint").from_pictures((one * 85).byte(), (1, 8, 8), 4, known).image)
        for one in (x, other)
    ]
    first, second = (distribution.at(0, 0, 0).pmf() for distribution in of_first)
    assert (first - second).abs().max() > 1e-6


def test_known_pixels_carry_no_bits_in_score_and_training() -> None:
    model = make(Task("inpaint"))
    x = some_images(5)
    given = model.conditioning(x, None, range(5))
    assert given.mask is not None
    of_sites = model(x, given.context).log_prob(x)
    expected = (of_sites * ~given.mask).flatten(1).sum(1)
    torch.testing.assert_close(model.score(x, given.context, given.mask), expected)
    torch.testing.assert_close(model.objective(x, given.context, given.mask), expected)
    assert (of_sites * given.mask).sum() < -1  # there was something to leave out


def test_a_score_does_not_depend_on_the_other_images_of_the_batch(data: Dataset) -> None:
    model = make(Task("denoise"))
    whole = evaluate(model, data.test)
    numbers = np.arange(len(data.test))
    x = torch.from_numpy(data.test.x)
    by_hand = -model.score(x, model.conditioning(x, None, numbers.tolist()).context)
    assert whole.nats == pytest.approx(by_hand.mean().item(), rel=1e-12)
    assert evaluate(model, data.test, batch_size=3).nats == pytest.approx(whole.nats, rel=1e-12)
    assert isinstance(model.conditioner, Task)
    degraded = model.conditioner.degrade(x, 4, numbers.tolist())
    assert score(model, x, degraded, batch_size=7).nats == pytest.approx(whole.nats, rel=1e-12)
    # Image 19 is degraded the same way alone, because it is still number 19.
    spread = evaluate(model, data.test, limit=2)
    assert spread.nats == pytest.approx(by_hand[[0, 19]].mean().item(), rel=1e-12)


@pytest.mark.parametrize("name", ["inpaint", "super-resolution", "denoise", "deblur"])
def test_restorations_are_samples_under_the_context(name: Any) -> None:
    model = make(Task(name))
    x = some_images(3)
    assert isinstance(model.conditioner, Task)
    degraded = model.conditioner.degrade(x, 4, range(3))
    draws = restore(model, degraded, draws=2, seed=3)
    assert draws.shape == (2, 3, 1, 8, 8)
    context = model.context(degraded.image, 3)
    known = degraded.mask
    kept = {} if known is None else {"x": x, "mask": known}
    first = model.sample(3, context, seed=3, **kept)  # type: ignore[arg-type]
    second = model.sample(3, context, seed=3, numbers=[3, 4, 5], **kept)  # type: ignore[arg-type]
    assert torch.equal(draws, torch.stack([first, second]))
    assert not torch.equal(first, second)
    if known is not None:
        assert torch.equal((draws == x) | ~known, torch.ones_like(draws, dtype=torch.bool))


def test_a_class_is_part_of_the_context() -> None:
    task = Task("inpaint")
    model = make(task, classes=3)
    torch.nn.init.normal_(model.condition.weight, std=3)  # type: ignore[arg-type]
    x = some_images(2)
    degraded = task.degrade(x, 4, range(2))
    scores = [score(model, x, degraded, c).nats for c in (0, 1)]
    assert abs(scores[0] - scores[1]) > 0.1
    context = model.context({"classes": 1, "image": degraded.image}, 2)
    drawn = model.sample(2, context, x=x, mask=degraded.mask)
    assert torch.equal(restore(model, degraded, draws=1, classes=1)[0], drawn)
    with pytest.raises(UserError, match="needs a class from 0 to 2 and an image"):
        restore(model, degraded, draws=1)


def test_qualities_and_differences() -> None:
    task = Task("super-resolution")
    x = some_images(2)
    degraded = task.degrade(x, 4, range(2))
    draws = torch.stack([x, x.clone(), x.clone(), x.clone()])
    draws[1, 0, 0, 2, 3] = (x[0, 0, 2, 3] + 1) % 4
    found = qualities(task, degraded, draws, 4, x)
    assert list(found) == ["mean of 4 draws", "one draw", "bicubic enlargement"]
    assert found["one draw"].psnr == 100
    assert found["mean of 4 draws"] == quality(x, draws.double().mean(0), 4)
    assert found["bicubic enlargement"] == quality(x, baseline(task, degraded, 4), 4)
    differ = uncertainty(draws)
    assert (differ > 0).sum() == 1
    values = draws[:, 0, 0, 2, 3].double().numpy()
    assert differ[0, 2, 3].item() == pytest.approx(np.std(values, ddof=1))


def test_a_model_learns_to_use_its_context(data: Dataset, tmp_path: Path) -> None:
    scores = {}
    for task in (None, Task("denoise", noise=0.1)):
        torch.manual_seed(0)
        image = None if task is None else task.context_shape(data.shape)
        model = GatedPixelCNN(
            shape=data.shape, levels=4, image=image, width=8, blocks=2, kernel_size=3
        )
        model.conditioner = task
        out = fit(
            model,
            data,
            out=tmp_path / str(task is None),
            steps=60,
            batch_size=16,
            optimizer="adamw",  # Muon is slower in so few steps
            lr=5e-3,
            warmup=10,
            valid_every=60,
            ema=0.9,
        )
        saved = load(out)
        assert saved.conditioner == task
        scores[task is None] = evaluate(saved, data.valid).bits_per_dim
    # A pixel's own value, with little noise, says more of it than all those before it.
    assert scores[False] < scores[True] - 0.2
    assert (tmp_path / "False" / "samples" / "step-0000060.png").is_file()


def test_each_step_of_training_degrades_anew_and_a_resumed_run_is_the_same(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    degrade = Task.degrade

    def watched(self: Task, x: Any, levels: int, numbers: Any, seed: int = 0) -> Any:
        degraded = degrade(self, x, levels, numbers, seed)
        if seed:
            seen.append(degraded.image)
        return degraded

    monkeypatch.setattr(Task, "degrade", watched)
    options: dict[str, Any] = {"batch_size": 100, "valid_every": 4, "save_every": 2, "lr": 0.01}
    runs = []
    for stops in ([4], [2, 4]):
        seen.clear()
        out = tmp_path / str(len(stops))
        for i, steps in enumerate(stops):
            model = make(Task("denoise")).float()
            fit(model, data, out=out, resume=i > 0, steps=steps, schedule="constant", **options)
        runs.append((list(seen), load(out).state_dict()))
    (once, weights), (twice, resumed) = runs
    assert len(once) == len(twice) == 4
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    # All images are in every batch: the same ones would make the sorted noise the same.
    assert not torch.equal(once[0].flatten().sort()[0], once[1].flatten().sort()[0])
