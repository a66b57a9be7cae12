"""Models that are told what a classifier says of an image, from training to variations."""

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from nextpixel import AutoregressiveModel, Bernoulli, load, load_data
from nextpixel.cli.describe import layers as describe_layers
from nextpixel.cli.main import main
from nextpixel.conditioning.classifier import Classifier, load_classifier
from nextpixel.conditioning.features import Features
from nextpixel.context import Context
from nextpixel.errors import UserError
from nextpixel.models import GatedPixelCNN
from nextpixel.tasks.variations import interpolate, order_by_layer, vary
from nextpixel.training import fit

LAYERS = ["conv1", "conv3", "embedding", "logits"]
SHAPE = (1, 8, 8)
HOW: dict[str, Any] = {"seed": 5, "sampler": "cached"}  # quickest for a few tiny images
TRAIN = "--model GatedPixelCNN --model.width 4 --model.blocks 2 --model.kernel_size 3 --threads 1"
STEPS = "--train.batch_size 8 --train.lr 0.02 --train.warmup 5 --train.valid_images 8"


def small_classifier(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(shape=SHAPE, levels=2, classes=2, width=4, embedding=6)


def told_model(layer: str, classifier: Classifier | None = None) -> GatedPixelCNN:
    """Makes a model that is told a layer, with weights at which the context counts."""
    features = Features(classifier or small_classifier(), layer)
    torch.manual_seed(1)
    dense = features.part == "vector"
    model = GatedPixelCNN(
        shape=SHAPE,
        levels=2,
        vector=features.shape[0] if dense else None,
        image=None if dense else features.shape,
        width=4,
        blocks=2,
    )
    for parameter in model.condition.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.conditioner = features
    return model.eval()


def images(n: int) -> Tensor:
    """Draws images of two kinds in turn: mostly black, and mostly white."""
    rng = np.random.default_rng(0)
    light = np.where(np.arange(n) % 2, 0.85, 0.15)[:, None, None, None]
    return torch.from_numpy((rng.random((n, *SHAPE)) < light).astype(np.uint8))


def told(model: GatedPixelCNN, x: Tensor) -> Context:
    context = model.conditioning(x, None, range(len(x))).context
    assert context is not None
    return context


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a classifier, and models that were told its layers."""
    folder = tmp_path_factory.mktemp("features")
    x = images(120)
    np.savez(folder / "own.npz", x=x.numpy(), y=np.arange(120) % 2)
    command(f"classifier --data {folder}/own.npz --out {folder}/classifier --steps 40 --width 4")
    own = f"train --data {folder}/own.npz --conditional false {TRAIN} {STEPS} --train.steps 50"
    for layer in ("embedding", "conv1"):
        command(f"{own} --features {folder}/classifier --layer {layer} --out {folder}/{layer}")
    command(f"{own} --out {folder}/nothing")
    return folder


def command(words: str) -> None:
    assert main(words.split()) == 0


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def refused(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words.split()) == 2
    return capsys.readouterr().err


# The context


@pytest.mark.parametrize("layer", LAYERS)
def test_a_model_is_told_the_layer_of_each_image(layer: str) -> None:
    model, x = told_model(layer).double(), images(4)
    assert model.conditioner is not None
    context = told(model, x)
    part = context.vector if model.conditioner.part == "vector" else context.image
    expected = model.conditioner.classifier.features(x, layer)
    torch.testing.assert_close(part, expected.float())
    assert not part.requires_grad
    assert torch.equal(model.log_prob(x, context), model.log_prob(x, told(model, x)))
    alone = torch.cat([model.log_prob(one, told(model, one)) for one in x.split(1)])
    torch.testing.assert_close(alone, model.log_prob(x, context), rtol=0, atol=1e-4)


@pytest.mark.parametrize("layer", ["conv2", "embedding"])
def test_what_is_told_is_given_once_and_the_likelihood_is_one_of_images(layer: str) -> None:
    """Whatever the last pixels are, under a fixed context their probabilities sum to 1."""
    model, x = told_model(layer).double(), images(2)[1:]
    context = told(model, x)
    endings = torch.tensor(list(itertools.product((0, 1), repeat=6)))
    every = x.flatten(1).long().repeat(len(endings), 1)
    every[:, -6:] = endings
    before = torch.ones(64, dtype=torch.bool)
    before[-6:] = False
    same = context[torch.zeros(len(endings), dtype=torch.long)]
    nats = model.log_prob(every.unflatten(1, SHAPE), same, before.view(SHAPE))
    torch.testing.assert_close(nats.exp().sum(), torch.tensor(1.0).double(), rtol=0, atol=1e-6)
    # While the features themselves see the whole image: told anew, the sum is another one.
    anew = told(model, every.unflatten(1, SHAPE))
    total = model.log_prob(every.unflatten(1, SHAPE), anew, before.view(SHAPE)).exp().sum()
    assert abs(total.item() - 1) > 1e-4


@pytest.mark.parametrize("layer", LAYERS)
def test_a_saved_model_needs_no_other_folder(layer: str, tmp_path: Path) -> None:
    small_classifier().save(tmp_path / "classifier")
    model = told_model(layer, load_classifier(tmp_path / "classifier"))
    model.save(tmp_path / "model")
    shutil.rmtree(tmp_path / "classifier")
    loaded = load(tmp_path / "model")
    x = images(3)
    assert isinstance(loaded, GatedPixelCNN)
    assert torch.equal(loaded.log_prob(x, told(loaded, x)), model.log_prob(x, told(model, x)))
    assert loaded.conditioner is not None
    assert not any(p.requires_grad for p in loaded.conditioner.parameters())
    assert not loaded.train().conditioner.classifier.training  # type: ignore[union-attr]


def test_a_damaged_configuration_is_refused(tmp_path: Path) -> None:
    told_model("embedding").save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["features"]["classifier"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="do not fit"):
        load(tmp_path)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_training_leaves_the_classifier_alone(ema: float, run: Path, tmp_path: Path) -> None:
    model = told_model("embedding")
    before = {name: t.clone() for name, t in model.state_dict().items()}
    data = load_data(run / "own.npz")
    options = {"batch_size": 8, "lr": 0.1, "warmup": 0, "weight_decay": 0.5, "ema": ema}
    fit(model, data, out=tmp_path, steps=3, valid_images=4, **options)  # type: ignore[arg-type]
    for state in (model.state_dict(), load(tmp_path / "last").state_dict()):
        frozen = [name for name in before if name.startswith("conditioner.")]
        assert len(frozen) == len(small_classifier().state_dict())
        assert all(torch.equal(state[name], before[name]) for name in frozen)
        learned = [name for name in before if name not in frozen]
        assert not any(torch.equal(state[name], before[name]) for name in learned)


def test_what_is_not_trained_is_said() -> None:
    model = told_model("embedding")
    frozen = sum(p.numel() for p in small_classifier().parameters())
    line = next(s for s in describe_layers(model).splitlines() if "not trained" in s)
    assert line.split()[-1] == f"{frozen:,}"
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == frozen


class Own(AutoregressiveModel):
    """Takes no context, and keeps a network of its own under a name that is taken."""

    def __init__(self, *, shape: tuple[int, int, int], levels: int = 2) -> None:
        super().__init__(shape=shape, levels=levels)
        self.conditioner = torch.nn.Sequential()  # type: ignore[assignment]

    def forward(self, x: Tensor, c: object = None) -> Bernoulli:
        return Bernoulli(torch.zeros(x.shape))


def test_models_that_do_not_fit_their_features(run: Path, tmp_path: Path) -> None:
    data = load_data(run / "own.npz")
    with pytest.raises(UserError, match="give your Sequential another name"):
        fit(Own(shape=SHAPE), data, out=tmp_path)
    model = GatedPixelCNN(shape=SHAPE, levels=2, vector=5, width=4, blocks=1)
    model.conditioner = Features(small_classifier(), "embedding")
    with pytest.raises(UserError, match="its embedding: make it with vector=6"):
        fit(model, data, out=tmp_path)
    model.conditioner = Features(Classifier(shape=(1, 9, 9), levels=2, classes=2), "embedding")
    with pytest.raises(UserError, match=r"images \(1, 9, 9\) with 2"):
        fit(model, data, out=tmp_path)


# The way between two images


def test_the_way_between_embeddings_stays_on_the_sphere() -> None:
    features = Features(small_classifier(), "embedding")
    a, b = features(images(2)).double().split(1)
    angle = torch.cosine_similarity(a, b).acos()
    for t in (0.0, 0.25, 0.5, 1.0):
        c = features.between(a, b, t)
        torch.testing.assert_close(c.norm(), torch.tensor(math.sqrt(6)).double())
        torch.testing.assert_close(
            torch.cosine_similarity(a, c).clamp(max=1).acos(), t * angle, rtol=0, atol=1e-6
        )
    for end in (a, -a):  # nothing between, and any way
        assert features.between(a, end, 0.5).isfinite().all()
    torch.testing.assert_close(features.between(a, a, 0.3), a, rtol=0, atol=1e-6)


def test_the_way_between_other_layers_is_straight() -> None:
    features = Features(small_classifier(), "conv1")
    a, b = features(images(2)).split(1)
    torch.testing.assert_close(features.between(a, b, 0.25), 0.75 * a + 0.25 * b)


def test_the_noise_is_the_same_all_along_a_row() -> None:
    model, x = told_model("embedding").double(), images(3)
    context = told(model, x)
    assert context.vector is not None
    still = interpolate(model, context[torch.tensor([0, 0])], draws=3, steps=4, **HOW)
    assert still.shape == (1, 3, 4, *SHAPE)
    assert (still == still[:, :, :1]).all()
    assert len({tuple(row.flatten().tolist()) for row in still[0, :, 0]}) == 3
    seen: list[float] = []
    way = interpolate(model, context, draws=2, steps=3, progress=seen.append, **HOW)
    assert seen == pytest.approx([1 / 3, 2 / 3, 1])
    # The ends are drawn from the images' own features: rows are numbered way by way.
    rows = torch.arange(2).repeat_interleave(2)
    assert torch.equal(way[:, :, 0].flatten(0, 1), model.sample(4, context[rows], **HOW))
    assert torch.equal(way[:, :, -1].flatten(0, 1), model.sample(4, context[rows + 1], **HOW))


# The commands


def test_variations_are_of_the_same_kind(run: Path) -> None:
    model = load(run / "embedding")
    assert isinstance(model, GatedPixelCNN)
    x = images(40)
    light = vary(model, told(model, x), draws=2).double().mean((0, 2, 3, 4))
    assert light[1::2].mean() - light[::2].mean() > 0.3  # 0.7 in the originals
    config = yaml.safe_load((run / "embedding" / "config.yaml").read_text())
    assert (config["features"], config["layer"]) == (f"{run}/classifier", "embedding")
    assert {"vector", "image"}.isdisjoint(config["model"]["init_args"])


def test_vary(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, pixels in enumerate(images(2)[:, 0].numpy()):
        Image.fromarray(pixels * 255).save(tmp_path / f"{i}.png")
    out = tmp_path / "new.png"
    command(f"vary {run}/embedding {tmp_path}/0.png {tmp_path}/1.png --draws 3 --out {out}")
    printed = capsys.readouterr().out
    assert "given their embedding" in printed
    assert printed.count("bits/dim") == 2
    command(f"vary {run}/embedding -n 3 --draws 2 --interpolate --columns 4 --out {out}")
    wide, high = size_of(out)
    assert wide > 1.2 * high  # 4 rows of 6
    command(f"eval {run}/conv1")
    assert "given its conv1" in capsys.readouterr().out


def test_invert_says_how_much_each_layer_keeps(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "inversion.png"
    command(f"invert {run}/embedding {run}/nothing {run}/conv1 -n 3 --draws 2 --out {out}")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:4]]
    assert [line[:2] for line in lines] == [
        ["nothing", "0"],
        ["conv1", "64"],
        ["embedding", "64"],
    ]
    bits = {line[0]: float(line[2]) for line in lines}
    assert bits["embedding"] < bits["nothing"]
    for line in lines:
        assert float(line[5]) == pytest.approx(64 * float(line[2]), abs=0.1)
    wide, high = size_of(out)
    assert wide > high  # 3 rows of 5


def test_a_run_goes_on(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "embedding", tmp_path / "run")
    command(f"train --resume {tmp_path}/run --train.steps 52")
    assert load(tmp_path / "run" / "last").conditioner is not None
    weights = (load(run / "embedding"), load(tmp_path / "run" / "last"))
    states = [model.conditioner.state_dict() for model in weights]  # type: ignore[union-attr]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--features {run}/classifier", "Give --layer, a layer of the classifier: conv1, conv2"),
        ("--features {run}/classifier --layer conv7", "no layer conv7: its layers are conv1"),
        ("--layer conv1", "name its folder with --features"),
        ("--features {run}/nowhere --layer conv1", "does not exist"),
        ("--features {run}/embedding --layer conv1", "not a subclass of"),
        ("--features {run}/classifier --layer conv1 --task denoise", "give one of them"),
        ("--features {run}/classifier --layer conv1 --data mnist", "images (1, 8, 8) with 2"),
        (
            "--features {run}/classifier --layer conv1 "
            "--model tests.conditioning.test_features.Own",
            "because it takes no image",
        ),
        ("--model tests.conditioning.test_features.Own", "give your Sequential another name"),
    ],
)
def test_what_training_refuses(
    words: str, message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = f"train --data {run}/own.npz --conditional false --out {tmp_path}/x"
    base += " --model GatedPixelCNN"
    assert message in refused(f"{base} {words.format(run=run)}", capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sample {run}/embedding", "use nextpixel vary"),
        ("vary {run}/nothing", "not conditioned on a classifier"),
        ("vary {run}/embedding -n 1 --interpolate", "at least two images"),
        ("vary {run}/embedding x.png --data mnist", "leave --data out"),
        ("vary {run}/embedding x.png", "no picture x.png"),
        ("invert {run}/nothing", "None of these models"),
        ("invert {run}/conv1 {run}/conv1", "different layers: these are conv1, conv1"),
    ],
)
def test_what_the_commands_refuse(
    words: str, message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(words.format(run=run), capsys)


def test_layers_of_different_classifiers_are_not_compared() -> None:
    other = told_model("conv1", small_classifier(1))
    with pytest.raises(UserError, match=r"different classifiers \(embedding and conv1\)"):
        order_by_layer([told_model("embedding"), other])
    models = order_by_layer([told_model("logits"), told_model("conv2")])
    assert [model.conditioner.layer for model in models if model.conditioner] == ["conv2", "logits"]
