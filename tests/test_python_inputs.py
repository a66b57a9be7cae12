"""What Python callers pass: pictures wherever images go, and mistakes, refused in one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nextpixel as npx
from nextpixel import UserError
from nextpixel.evaluation.likelihood import entropy, surprisal
from tests.helpers import scoring_model


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, out: m.sample(1, seed=1.5), "A seed is a whole number, not 1.5"),
        (lambda m, out: m.sample(1, seed="1"), "A seed is a whole number, not '1'"),
        (lambda m, out: m.sample(1, numbers=[0.5]), "The number of an image is a whole number"),
        (lambda m, out: m.sample(2.5), "A number of images is a whole number, not 2.5"),
        (lambda m, out: npx.fit(m, "mnist", out=out, seed=0.5), "train.seed is a whole number"),
        (lambda m, out: npx.fit(m, "mnist", out=out, steps=2.5), "train.steps is a whole number"),
        (lambda m, out: npx.load("mnist", device="tpu"), "Unknown device tpu"),
        (lambda m, out: npx.load("mnist", device="cuda:99"), "no device cuda:99 here"),
        (lambda m, out: npx.load_classifier("judge-mnist", device="cuda:99"), "no device cuda:99"),
        (lambda m, out: npx.fit(m, "mnist", out=out, device="cuda:99"), "no device cuda:99"),
    ],
)
def test_wrong_values_are_refused(
    call: Callable[[Any, Path], object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        call(scoring_model(shape=(1, 28, 28)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_integers_of_numpy_and_pytorch_are_integers() -> None:
    model = scoring_model(levels=4)
    expected = model.sample(2, seed=3, numbers=[5, 6])
    numbers = torch.tensor([5, 6])
    for how in ({"seed": np.int64(3), "numbers": np.array([5, 6])}, {"numbers": list(numbers)}):
        assert torch.equal(model.sample(np.int64(2), **{"seed": 3, **how}), expected)


# --- pictures -------------------------------------------------------------------------------------

BYTES = np.random.default_rng(0).integers(0, 256, (12, 8, 8)).astype(np.uint8)
X = torch.from_numpy(BYTES.astype(np.int64) * 4 // 256)[:, None]  # four levels


def kinds(folder: Path) -> dict[str, Any]:
    """The same twelve pictures, in all the ways that a caller may have them."""
    pictures = [Image.fromarray(each) for each in BYTES]
    files = [folder / f"{number:02}.png" for number in range(len(BYTES))]
    for picture, file in zip(pictures, files, strict=True):
        picture.save(file)
    return {
        "PIL images": pictures,
        "paths": files,
        "a folder": folder,
        "the name of a folder": str(folder),
        "HWC": BYTES[..., None],
        "NCHW": BYTES[:, None],
        "a list of arrays": list(BYTES),
        "levels": X.numpy(),
    }


def test_scores_take_pictures(tmp_path: Path) -> None:
    model = scoring_model(levels=4)
    with torch.no_grad():
        log_prob, bits = model.log_prob(X), model.bits_per_dim(X)
    for what, given in kinds(tmp_path).items():
        assert torch.equal(model.log_prob(given), log_prob), what
        assert torch.equal(model.score(given), log_prob), what
        assert torch.equal(model.bits_per_dim(given), bits), what
        scores = npx.score_images(model, given)["bits_per_dim"]
        np.testing.assert_allclose(scores, bits, rtol=1e-6, err_msg=what)
        assert npx.evaluate(model, given).images == len(X)
        assert torch.equal(surprisal(model, given), surprisal(model, X))
        assert torch.equal(entropy(model, given), entropy(model, X))


def test_masks_and_contexts_may_be_arrays() -> None:
    model, mask = scoring_model(classes=3, levels=4), np.arange(8) < 3
    expected = model.log_prob(X, torch.arange(12) % 3, torch.from_numpy(mask)).detach()
    assert torch.equal(model.log_prob(BYTES, np.arange(12) % 3, mask), expected)


def test_completions_and_samples_take_pictures(tmp_path: Path) -> None:
    model, known = scoring_model(levels=4), np.broadcast_to(np.arange(8)[:, None] < 4, (8, 8))
    expected = npx.complete(model, X, torch.tensor(known))
    particles = npx.complete_with_particles(model, X, torch.tensor(known), particles=2).x
    for what, given in kinds(tmp_path).items():
        assert torch.equal(npx.complete(model, given, known), expected), what
    assert torch.equal(model.sample(12, x=BYTES, mask=known), expected)
    of_arrays = npx.complete_with_particles(model, BYTES, known, particles=2)
    assert torch.equal(of_arrays.x, particles)


def test_restorations_take_pictures() -> None:
    model = npx.load("mnist-super-resolution")
    x = npx.load_data("mnist", levels=model.levels).test.batch(np.arange(2))[0]
    degraded = model.conditioner.degrade(x, model.levels, range(2))
    expected = npx.restore(model, degraded, draws=1)
    pictures = npx.to_pil(degraded.picture, 256)
    assert torch.equal(npx.restore(model, pictures, draws=1), expected)
    inpaint = npx.load("mnist-inpaint")
    with pytest.raises(UserError, match="give a mask"):
        npx.restore(inpaint, pictures)
    known = np.ones((28, 28), bool)
    whole = npx.to_pil(x, inpaint.levels)
    restored = npx.restore(inpaint, whole, mask=known, draws=1)[0]
    assert torch.equal(restored, npx.to_images(whole, inpaint.shape, inpaint.levels))


def test_a_latent_generator_takes_pictures() -> None:
    generator = npx.LatentGenerator.load("vq-mnist")
    x = npx.load_data("mnist", levels=generator.levels).test.batch(np.arange(1))[0]
    pictures, x = npx.to_pil(x, generator.levels), torch.from_numpy(x)
    codes = generator.codes(x)
    assert torch.equal(generator.codes(pictures), codes)
    known = np.ones(codes.shape[2:], bool)
    expected = generator.complete(x, torch.from_numpy(known), c=[7])
    assert torch.equal(generator.complete(pictures, known, c=[7]), expected)


def test_models_with_a_code_take_pictures() -> None:
    torch.manual_seed(0)
    for cls in (npx.VAE, npx.VQVAE, npx.Autoencoder, npx.PixelCNNAutoencoder):
        model = cls(shape=(1, 8, 8), levels=4).eval()
        assert torch.equal(model.score(BYTES[:2]), model.score(X[:2]).detach())
        assert not model.score(BYTES[:2]).requires_grad
    assert torch.equal(model.reconstruct(BYTES[:1]), model.reconstruct(X[:1]))


def test_training_takes_pictures(tmp_path: Path) -> None:
    def trained(data: Any, out: str) -> str:
        model = scoring_model(levels=4)
        npx.fit(model, data, out=tmp_path / out, steps=1, batch_size=2, device="cpu")
        return model.digest()

    (tmp_path / "pictures").mkdir()
    expected = trained(X, "tensor")
    for what, given in kinds(tmp_path / "pictures").items():
        if "folder" not in what:
            assert trained(given, what) == expected, what


def test_training_takes_a_folder_of_larger_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    for number, split in enumerate(["train", "train", "valid", "test"]):
        (folder / split).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(BYTES[number]).resize((20 + number, 16))
        picture.save(folder / split / f"{number}.png")
    model = scoring_model(levels=4)
    out = npx.fit(model, folder, out=tmp_path / "run", steps=1, batch_size=2, device="cpu")
    assert str(folder) in (out / "config.yaml").read_text()


def test_training_takes_pictures_with_classes(tmp_path: Path) -> None:
    model = scoring_model(classes=2, levels=4)
    data = {"x": list(BYTES), "y": [0, 1] * 6}
    npx.fit(model, data, out=tmp_path / "run", steps=1, batch_size=2, device="cpu")
    assert model.data_record.class_names == ("0", "1")
    with pytest.raises(UserError, match="pictures has no classes"):
        npx.fit(model, BYTES, out=tmp_path / "other", steps=1)


def test_only_tensors_have_a_graph() -> None:
    model = scoring_model(levels=4)
    assert model.log_prob(X).requires_grad  # for a training loop, whatever the mode
    assert not model.bits_per_dim(X).requires_grad
    assert not model.log_prob(BYTES).requires_grad
    model.train()
    assert model.bits_per_dim(X).requires_grad
    for result in (model.log_prob(BYTES), model.score(BYTES), model.bits_per_dim(BYTES)):
        assert not result.requires_grad
    assert model.training


def test_pictures_are_scored_without_dropout() -> None:
    torch.manual_seed(0)
    model = npx.PixelCNNPP(shape=(1, 8, 8), levels=4, width=8, blocks=1, stages=1).train()
    assert torch.equal(model.log_prob(BYTES), model.log_prob(BYTES))


def test_other_sizes_are_resized_with_a_warning() -> None:
    model = scoring_model(levels=4)
    pictures = [np.zeros((8, 8), np.uint8), *np.zeros((2, 9, 9), np.uint8)]
    for call in (
        lambda: model.log_prob(pictures),
        lambda: npx.score_images(model, pictures),
        lambda: npx.complete(model, pictures, np.ones((8, 8), bool)),
    ):
        with pytest.warns(UserWarning, match="2 of 3 pictures had another size") as warned:
            call()
        assert [each.filename for each in warned] == [__file__]


@pytest.mark.parametrize(
    "call",
    [
        lambda m, loader, out: m.log_prob(loader),
        lambda m, loader, out: m.bits_per_dim(loader),
        lambda m, loader, out: npx.evaluate(m, loader),
        lambda m, loader, out: npx.score_images(m, loader),
        lambda m, loader, out: npx.complete(m, loader, np.ones((8, 8), bool)),
        lambda m, loader, out: npx.fit(m, loader, out=out),
    ],
)
def test_a_data_loader_is_refused(call: Callable[..., object], tmp_path: Path) -> None:
    loader = torch.utils.data.DataLoader(list(X))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not DataLoader: convert them first"):
        call(scoring_model(levels=4), loader, tmp_path / "run")
