"""One network in eight orders: each is exact, and every command takes the right one."""

from __future__ import annotations

import itertools
import math
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import nextpixel as npx
from nextpixel.cli.main import main
from nextpixel.codec import chunks
from nextpixel.codec.chunks import parse_chunk
from nextpixel.codec.compress import compress
from nextpixel.codec.models import Coding, compiled
from nextpixel.codec.pictures import Item
from nextpixel.data import Images
from nextpixel.engine import Coder, Program
from nextpixel.engine.library import LIBRARIES
from nextpixel.errors import UserError
from nextpixel.models.base.image_model import Conditioning, in_orders
from nextpixel.orders import best_order, in_words, turn, turn_back
from tests.codec.files import images_of, source_of
from tests.codec.golden.make import DIGESTS
from tests.helpers import ROOT, needs, refused, run

SIDES = {
    "top": np.s_[:2, :],
    "bottom": np.s_[2:, :],
    "left": np.s_[:, :2],
    "right": np.s_[:, 2:],
}


def network(size: tuple[int, int] = (4, 4), **arguments: Any) -> npx.GatedPixelCNN:
    """A network whose orders differ much."""
    torch.manual_seed(0)
    options = {"levels": 2, "orders": 8, "width": 8, "blocks": 2, "kernel_size": 3} | arguments
    model = npx.GatedPixelCNN(shape=(1, *size), **options).eval()
    if model.condition.weight is not None:
        torch.nn.init.normal_(model.condition.weight)
    return model


def weight_of(model: npx.GatedPixelCNN) -> Tensor:
    assert model.condition.weight is not None
    return model.condition.weight


# --- turns ----------------------------------------------------------------------------------------


def test_the_words_say_where_an_order_begins_and_goes() -> None:
    place = {"top": 0, "left": 0, "bottom": -1, "right": -1}
    pixels = np.arange(12).reshape(3, 4)
    seen = set()
    for order in range(8):
        flat = turn(pixels, order).ravel()
        line, start = in_words(order).split(" from the ", 1)
        first, each = start.split(", each from the ")
        by_row = line == "row by row"
        row, col = (place[first], place[each]) if by_row else (place[each], place[first])
        assert flat[0] == pixels[row, col]
        assert abs(flat[1] - flat[0]) == (1 if by_row else 4)
        seen.add(in_words(order))
    assert len(seen) == 8
    assert in_words(0) == "row by row from the top, each from the left"


@pytest.mark.parametrize("order", range(8))
def test_turns_are_undone(order: int) -> None:
    x = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(turn_back(turn(x, order), order), x)
    of_tensor = turn(torch.from_numpy(x), order)
    assert np.array_equal(of_tensor.numpy(), turn(x, order))
    assert torch.equal(turn_back(of_tensor, order), torch.from_numpy(x))


@pytest.mark.parametrize("side", SIDES)
def test_what_is_hidden_on_any_side_comes_last(side: str) -> None:
    known = torch.ones(4, 4, dtype=torch.bool)
    known[SIDES[side]] = False
    order = best_order(known, 8)
    flat = turn(known, order).flatten()
    assert flat[:8].all()
    assert not flat[8:].any()
    assert best_order(torch.ones(4, 4, dtype=torch.bool), 8) == 0  # nothing is hidden
    assert best_order(~torch.eye(4, dtype=torch.bool).fliplr(), 8) == 0  # no order is better


# --- the likelihood -------------------------------------------------------------------------------


def all_images() -> Tensor:
    return torch.tensor(list(itertools.product([0, 1], repeat=4))).view(16, 1, 2, 2)


@pytest.mark.parametrize("classes", [None, 3])
def test_each_order_is_a_distribution(classes: int | None) -> None:
    model, c = network((2, 2), classes=classes), None if classes is None else 1
    nats = model.log_prob_in_orders(all_images(), c).detach()
    assert nats.shape == (16, 8)
    torch.testing.assert_close(nats.exp().sum(0), torch.ones(8))
    assert len(nats[1].unique()) == 8  # and they differ
    torch.testing.assert_close(nats[:, 0], model.log_prob(all_images(), c))
    mixture = nats.logsumexp(1) - math.log(8)
    torch.testing.assert_close(mixture.exp().sum(), torch.tensor(1.0))


def test_masked_pixels_turn_with_the_image() -> None:
    """Without a bias for the orders, a turned image of one colour scores as the image itself."""
    model = network()
    torch.nn.init.zeros_(weight_of(model))
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, 0] = True
    x = torch.zeros(1, 1, 4, 4, dtype=torch.long)
    nats = model.log_prob_in_orders(x, mask=mask)[0].detach()
    torch.testing.assert_close(nats[0], nats[1])  # the first row is masked in both
    torch.testing.assert_close(nats[2], nats[3])
    assert abs(float(nats[0] - nats[2])) > 1e-4  # the last row
    one = model.log_prob_in_orders(np.zeros((4, 4), np.uint8), mask=mask)
    torch.testing.assert_close(one[0], nats)


def test_evaluation_takes_the_mixture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = network(classes=2)
    model.save(tmp_path / "model")
    x = np.random.default_rng(0).integers(0, 2, (20, 4, 4)).astype(np.uint8)
    y = np.arange(20) % 2
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y, levels=2)
    words = f"eval {tmp_path / 'model'} --data {tmp_path / 'a.npz'} --all-orders"
    out = run(words, capsys)
    nats = model.log_prob_in_orders(torch.from_numpy(x.astype(int))[:, None], y)
    mean = math.log(8) - float(nats.detach().logsumexp(1).mean())
    assert f"given the class, 8 orders together): {mean / 16 / math.log(2):.4f}" in out


# --- completing and sampling ----------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_a_hidden_side_is_completed_exactly(side: str) -> None:
    """The completions have the model's conditional distribution, by its own joint one."""
    model = network((2, 2))
    known = torch.ones(4, 4, dtype=torch.bool)
    known[SIDES[side]] = False
    known = known[1:3, 1:3]  # its middle: the hidden side has two of the four pixels
    order = best_order(known, 8)
    x = torch.tensor([[[0, 1], [1, 0]]])
    fits = ((all_images() == x) | ~known).flatten(1).all(1)
    likely = model.log_prob_in_orders(all_images())[fits, order].exp().detach()
    drawn = npx.complete(model, x.expand(4000, 1, 2, 2), known, seed=1)
    assert (drawn == x)[:, :, known].all()
    counts = torch.stack([(drawn == one).flatten(1).all(1).sum() for one in all_images()[fits]])
    share, expected = counts / 4000, likely / likely.sum()
    assert counts.sum() == 4000
    assert ((share - expected).abs() < 4 * (expected * (1 - expected) / 4000).sqrt()).all()


def test_all_samplers_agree_in_every_order() -> None:
    model = network(classes=2)
    for order in range(8):
        context = model.context([0, 1, 1], 3).in_order(order, 8)
        drawn = model.sample(3, context, seed=2, sampler="engine")
        assert torch.equal(drawn, model.sample(3, context, seed=2, sampler="cached"))
        assert torch.equal(drawn, model.sample(3, context, seed=2, sampler="full"))


@pytest.mark.parametrize("classes", [None, 2])
def test_a_program_draws_and_scores_in_raster_order(classes: int | None, tmp_path: Path) -> None:
    model = network(classes=classes)
    model.save_program(tmp_path / "a.program")
    program = Program.load(tmp_path / "a.program")
    c = {} if classes is None else {"classes": [0, 1, 1]}
    ids = c.get("classes")
    assert (program.orders, program.classes) == (8, classes or 0)
    x = program.sample(3, seed=2, **c)
    assert np.array_equal(x, model.sample(3, ids, seed=2).numpy())
    scores = model.log_prob(torch.from_numpy(x), ids).detach().numpy()
    np.testing.assert_allclose(program.log_prob(x, **c), scores, rtol=1e-5)
    if classes is not None:  # the null context is in raster order, too
        guided = program.sample(3, seed=2, guidance=1.5, **c)
        assert np.array_equal(guided, model.sample(3, ids, seed=2, guidance=1.5).numpy())


def test_a_program_that_says_orders_and_takes_none_is_refused(tmp_path: Path) -> None:
    path, model = tmp_path / "a.program", network(orders=1)
    with pytest.raises(UserError, match="says 8 orders, and takes none"):
        model.save_program(path, hyperparameters={"orders": 8})
    assert not path.exists()
    model.save_program(path, hyperparameters={"orders": [8]})
    assert Program.load(path).orders == 1


def test_complete_says_its_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network((6, 6)).save(tmp_path / "model")
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 2, (3, 6, 6)).astype(np.uint8))
    words = f"complete {tmp_path / 'model'} {tmp_path / 'a.npy'} --out {tmp_path / 'a.png'}"
    out = run(f"{words} --keep bottom", capsys)
    order = "row by row from the bottom, each from the left"
    assert f"Pixels are sampled {order}, after all known ones." in out
    out = run(f"{words} --box 2,2,2,2", capsys)
    assert "Pixels are sampled in raster order, and given only those before them." in out


def test_files_are_compressed_in_raster_order(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 2, (5, 1, 4, 4)).astype(np.uint8)
    for classes in (None, 2):
        y, out = None if classes is None else np.arange(5) % 2, tmp_path / f"{classes}.npz"
        npx.compress(network(classes=classes), Images(x, y, 2), tmp_path / "a.npxz")
        npx.decompress(tmp_path / "a.npxz", out)
        assert np.array_equal(np.load(out)["x"], x)


def test_each_image_is_compressed_in_its_best_order(tmp_path: Path) -> None:
    """The whole cost is that of the best orders, and three bits each."""
    model, count = network(classes=2), 400
    x = np.random.default_rng(0).integers(0, 2, (count, 1, 4, 4)).astype(np.uint8)
    y = np.arange(count) % 2
    path, out = tmp_path / "a.npxz", tmp_path / "a.npz"
    coding = Coding("a model", compiled(model))  # the weights are not rounded
    code = npx.compress(coding, Images(x, y, 2), path, all_orders=True).code
    nats = -model.log_prob_in_orders(torch.from_numpy(x.astype(int)), y).detach()
    assert len(nats.argmin(1).unique()) == 8
    bits = float(nats.min(1).values.sum()) / math.log(2)
    assert 8 * code == pytest.approx(bits + count * (3 + 1), abs=32)  # a class takes a bit
    npx.decompress(path, out)
    assert np.array_equal(np.load(out)["x"], x)
    assert np.array_equal(np.load(out)["y"], y)


def items_of_many_sizes() -> list[Item]:
    random = np.random.default_rng(0)
    sizes = [(4, 4), (3, 9), (17, 5), (1, 1), (1, 30), (8, 3)] * 5
    return [Item("", random.integers(0, 2, (1, *size)).astype(np.uint8)) for size in sizes]


@pytest.mark.usefixtures("all_coded")
@pytest.mark.parametrize("orders", [4, 8])
def test_images_of_any_size_are_turned_as_wholes(orders: int, tmp_path: Path) -> None:
    items = items_of_many_sizes()
    coding = Coding("a model", compiled(network(orders=orders)))
    assert compress(coding, source_of(items), tmp_path / "a.npxz", all_orders=True).kept == 0
    found, faults = images_of(tmp_path / "a.npxz")
    assert not faults
    for x, item in zip(found, items, strict=True):
        assert np.array_equal(x, item.levels)


def test_a_file_that_says_other_orders_than_its_program_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = Images(np.zeros((5, 1, 4, 4), np.uint8), None, 2)
    monkeypatch.setattr(npx.codec.compress, "several_orders", lambda _: 4)
    with pytest.raises(UserError, match="says 4 orders, and its program 8"):
        npx.compress(network(), x, tmp_path / "a.npxz", all_orders=True)


def test_the_file_that_must_decode_for_ever_has_many_orders() -> None:
    with npx.Compressed(DIGESTS.with_name("orders.npxz")) as file:
        about, (code,), _ = parse_chunk(file.reader.body(file.chunks[0]))
    coder, numbers = Coder.decoder(code), np.zeros(len(about.entries), np.int64)
    coder.code_numbers(numbers, 2)  # classes
    coder.code_numbers(numbers, 8)
    assert len(set(numbers.tolist())) >= 4
    assert {tuple(entry.size) for entry in about.entries} == {(5, 9)}


def test_a_model_of_one_order_has_no_best_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network(orders=1).save(tmp_path / "model")
    np.save(tmp_path / "a.npy", np.zeros((5, 1, 4, 4), np.uint8))
    words = f"compress {tmp_path / 'model'} {tmp_path / 'a.npy'} --all-orders"
    assert "knows one order of the pixels" in refused(words, capsys)


@pytest.fixture
def all_coded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps no image as a file, though files of small ones are smaller."""
    monkeypatch.setattr(chunks, "smallest_file", lambda *_: None)


@pytest.mark.usefixtures("all_coded")
@pytest.mark.parametrize("classes", [None, 2])
@pytest.mark.parametrize("all_orders", [False, True])
def test_a_browsers_machine_decodes_them(
    classes: int | None, all_orders: bool, tmp_path: Path
) -> None:
    needs("node", "nodejs")
    items = [replace(x, own_class=classes and 1) for x in items_of_many_sizes()]
    coding, path = Coding("a model", compiled(network(classes=classes))), tmp_path / "a.npxz"
    compress(coding, source_of(items), path, all_orders=all_orders)
    script = ROOT / "tests" / "codec" / "decode.mjs"
    words = ["node", str(script), str(LIBRARIES / "engine-wasm32.wasm"), str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    shapes = [x.levels.shape for x in items if x.levels is not None]
    sizes = [f"{height}x{width}" for _, height, width in shapes]
    assert done.stdout.split()[1:] == ["30", ",".join(sizes)]


# --- training -------------------------------------------------------------------------------------


def test_each_image_of_a_batch_is_turned_as_its_context_says() -> None:
    model = network(classes=2)
    x = torch.arange(3 * 16).view(3, 1, 4, 4)
    mask = x % 5 == 0
    given = Conditioning(model.context([0, 1, 1], 3), mask)
    order = np.array([0, 3, 6])
    turned, conditioning = in_orders(x, given, order, 8)
    assert conditioning.context is not None
    assert conditioning.context.order is not None
    assert conditioning.mask is not None
    assert conditioning.context.order.argmax(1).tolist() == [0, 3, 6]
    assert torch.equal(conditioning.context.classes, given.context.classes)
    for k in range(3):
        assert torch.equal(turned[k], turn(x[k], int(order[k])))
        assert torch.equal(conditioning.mask[k], turn(mask[k], int(order[k])))


def test_training_learns_all_orders(tmp_path: Path) -> None:
    """An image is certain if the order is known; if not, its first row alone takes 1.4 nats."""
    x = np.zeros((64, 1, 6, 6), np.uint8)
    x[:, :, 3:] = 1
    model = network((6, 6), width=16)
    torch.nn.init.zeros_(weight_of(model))
    data = {"x_train": x, "x_valid": x[:8], "x_test": x[:8], "levels": 2}
    np.savez(tmp_path / "a.npz", **data)
    options: Any = {"optimizer": "adamw", "lr": 2e-2, "ema": 0.9}  # Muon is slower in so few steps
    npx.fit(model, tmp_path / "a.npz", out=tmp_path / "run", steps=80, batch_size=16, **options)
    best = npx.load(tmp_path / "run")
    nats = -best.log_prob_in_orders(x[:1])
    assert float(nats.max()) < 1.0


def test_a_run_is_resumed_with_its_orders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.zeros((20, 1, 6, 6), np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, x_valid=x[:4], x_test=x[:4], levels=2)
    options = "--model PixelCNN --model.width 8 --model.blocks 1 --model.orders 8 --threads 1"
    out = tmp_path / "run"
    words = f"train --data {tmp_path / 'a.npz'} {options} --train.steps 2 --out {out}"
    assert main(words.split()) == 0
    assert main(f"train --resume {out} --train.steps 3".split()) == 0
    assert "Resuming at step 2" in capsys.readouterr().err
    assert npx.load(out).orders == 8


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"orders": 3}, "orders is 1, 4"),
        ({"orders": 8, "size": (4, 6)}, "6 x 4 pixels cannot be turned"),
        ({"orders": 8, "image": (1, 4, 4)}, "leave orders or image out"),
    ],
)
def test_orders_that_do_not_fit_are_refused(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        network(**arguments)


def test_four_orders_suit_any_shape() -> None:
    model = network((4, 6), orders=4)
    assert model.log_prob_in_orders(torch.zeros(2, 1, 4, 6, dtype=torch.long)).shape == (2, 4)
    with pytest.raises(UserError, match="for another model"):
        model.context(network().context(None, 1), 1)
