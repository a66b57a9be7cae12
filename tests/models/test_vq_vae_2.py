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


# --- coarse codes ---------------------------------------------------------------------------------


def with_coarse_codes(n: int = 40, codes: int = 3) -> Images:
    """Images of 2 levels, in which a pixel is 1 where its coarse code is."""
    random = np.random.default_rng(n)
    top = random.integers(0, codes, (n, 1, 2, 2)).astype(np.uint8)
    x = (top == 1).astype(np.uint8)
    return Images(x, random.integers(0, 2, n), 2, coarse_codes=Images(top, None, codes))


def test_coarse_codes_become_one_hot_planes() -> None:
    split = with_coarse_codes()
    model = GatedPixelCNN(shape=(1, 2, 2), levels=2, classes=2, image=(3, 2, 2), width=8, blocks=1)
    model.conditioner = CoarseCodes()
    numbers = np.array([5, 2])
    x, given = model.inputs(split, numbers)
    assert given.context is not None
    assert given.context.image is not None
    assert torch.equal(x, torch.from_numpy(split.x[numbers]))
    top = torch.from_numpy(split.coarse_codes.x[numbers, 0].astype(np.int64))  # type: ignore[union-attr]
    for code in range(3):
        assert torch.equal(given.context.image[:, code], (top == code).float())
    few = split.subset(4)
    assert few.coarse_codes is not None
    assert np.array_equal(few.coarse_codes.x, split.coarse_codes.x[[0, 13, 26, 39]])  # type: ignore[union-attr]
    with pytest.raises(UserError, match="coarse codes with one channel"):
        replace(split, coarse_codes=few.coarse_codes)
    takes = ContextSpec(image=(3, 2, 2))
    one = takes.read(torch.zeros(2, 2, dtype=torch.int64), 5)
    assert one is not None
    assert one.image is not None
    assert one.image.sum((1, 2, 3)).tolist() == [4] * 5
    with pytest.raises(UserError, match=r"lie in \[0, 3\)"):
        takes.read(torch.full((2, 2), 3), 5)


def test_a_prior_learns_to_use_its_context(tmp_path: Path) -> None:
    train, valid = with_coarse_codes(400), with_coarse_codes(60)
    data = Dataset("repeated", train, valid, valid, 2, ("a", "b"), "made up")
    assert data.coarse_codes == (3, 2, 2)
    torch.manual_seed(0)
    model = GatedPixelCNN(shape=(1, 2, 2), levels=2, image=(3, 2, 2), width=8, blocks=1)
    options = {"batch_size": 32, "warmup": 5, "lr": 0.02, "precision": "float32", "ema": 0.9}
    fit(model, data, out=tmp_path / "run", steps=60, **options)  # type: ignore[arg-type]
    assert (tmp_path / "run" / "samples" / "step-0000060.png").exists()
    wrong = replace(valid, coarse_codes=replace(valid.coarse_codes, x=valid.coarse_codes.x[::-1]))  # type: ignore
    assert evaluate(model, valid).bits_per_dim < 0.3  # not told, they take 0.92
    assert evaluate(model, wrong).bits_per_dim > 1
    deaf = GatedPixelCNN(shape=(1, 2, 2), levels=2, width=8, blocks=1)
    with pytest.raises(UserError, match="not conditioned on them"):
        fit(deaf, data, out=tmp_path / "deaf", steps=1)


# --- the commands ---------------------------------------------------------------------------------

TRAIN = "--train.batch_size 16 --train.warmup 5 --train.valid_images 8 --train.steps"
VQ = "--model VQVAE2 --model.width 4 --model.codes 6 --model.code_size 3 --model.components 2"
PRIOR = "--model GatedPixelCNN --model.width 8 --model.blocks 2 --model.kernel_size 3"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny images, a trained VQ-VAE-2, its two priors, and all in one folder."""
    folder = tmp_path_factory.mktemp("codes")
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 80)
    x = (y[:, None, None] * 2 + random.integers(0, 2, (80, 8, 8))).astype(np.uint8)
    np.savez(folder / "tiny.npz", x=x, y=y, levels=6)
    with working_in(folder):
        for words in (
            f"train {VQ} --data tiny.npz --conditional false --out vq {TRAIN} 40 --train.lr 0.01",
            f"train {PRIOR} --data codes:vq --out top {TRAIN} 40 --train.lr 0.02",
            f"train {PRIOR} --data codes:vq#bottom --out bottom {TRAIN} 40 --train.lr 0.02",
            "bundle vq top bottom --out all",
        ):
            succeed(words)
    return folder


def test_codes_as_data(here: Path) -> None:
    model, tiny = load("vq"), load_data("tiny.npz")
    assert isinstance(model, VQVAE2)
    top, bottom = load_data("codes:vq"), load_data("codes:vq#bottom")
    assert (top.shape, top.levels, top.classes, top.coarse_codes) == ((1, 2, 2), 6, 3, None)
    assert (bottom.shape, bottom.levels, bottom.coarse_codes) == ((1, 4, 4), 6, (6, 2, 2))
    assert (top.codes_of, bottom.codes_of) == (f"{model.digest()}/top", f"{model.digest()}/bottom")
    for split in ("train", "valid", "test"):
        grids = model.split(model.codes(torch.from_numpy(getattr(tiny, split).x)))
        ours = getattr(bottom, split)
        assert np.array_equal(getattr(top, split).x[:, 0], grids[0].numpy())
        assert np.array_equal(ours.x[:, 0], grids[1].numpy())
        assert np.array_equal(ours.coarse_codes.x[:, 0], grids[0].numpy())
        assert np.array_equal(ours.y, getattr(tiny, split).y)
        for x in (ours.x, ours.coarse_codes.x):
            assert isinstance(x, np.memmap)
            assert not x.flags.owndata


def test_padding_is_refused(here: Path, tmp_path: Path) -> None:
    model = load("vq")
    x, rows = np.zeros((8, 1, 8, 8), np.uint8), np.full(8, 5)
    split = Images(x, None, 6, rows=rows)
    data = Dataset("short", split, split, split, 6, None, "made up")
    with pytest.raises(UserError, match="cannot tell where an image ends"):
        fit(model, data, out=tmp_path / "run", steps=1)


def test_eval_adds_up_all_parts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decoder, top, bottom = load("vq"), load("top"), load("bottom")
    assert isinstance(decoder, VQVAE2)
    tiny = load_data("tiny.npz").test
    x, y = torch.from_numpy(tiny.x), tiny.y
    with torch.no_grad():
        grids = decoder.split(decoder.codes(x))
        nats = [
            -top.score(grids[0][:, None], y),
            -bottom.score(grids[1][:, None], {"classes": y, "image": grids[0]}),
            -decoder.score(x),
        ]
    bits = [one.mean().item() / math.log(2) for one in nats]
    found = json.loads(run("eval bottom --top top --json", capsys))
    assert found["top_codes_bits_per_image"] == pytest.approx(bits[0], rel=1e-4)
    assert found["codes_bits_per_image"] == pytest.approx(bits[1], rel=1e-4)
    assert found["bits_per_code"] == pytest.approx(bits[1] / 16, rel=1e-4)
    assert found["residual_bits_per_image"] == pytest.approx(bits[2], rel=1e-4)
    assert found["description_length_bits_per_dim"] == pytest.approx(sum(bits) / 64, rel=1e-4)
    assert "given the class and the top codes" in run("eval bottom --top top", capsys)
    for words in ("eval top", "eval bottom"):
        alone = run(words, capsys)
        assert "not included" in alone
        assert "Description length" not in alone
        assert "description_length_bits_per_dim" not in json.loads(run(f"{words} --json", capsys))


def test_eval_refuses_a_wrong_top_before_it_scores(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scored: list[object] = []
    monkeypatch.setattr(
        "nextpixel.evaluation.likelihood.evaluate", lambda *_, **__: scored.append(0)
    )
    assert "does not exist" in refused("eval bottom --top nowhere", capsys)
    assert "the top's first" in refused("eval bottom --top bottom", capsys)
    assert scored == []


def test_sampling_draws_the_top_then_the_bottom_then_pixels(here: Path) -> None:
    generator, decoder, top, bottom = (
        LatentGenerator.load("all"),
        load("vq"),
        load("top"),
        load("bottom"),
    )
    assert isinstance(decoder, VQVAE2)
    told_done: list[float] = []
    seeds: list[int] = []
    real = generator.priors[1].sample

    def watched(*args: Any, seed: int, **how: Any) -> Tensor:
        seeds.append(seed)
        return real(*args, seed=seed, **how)

    generator.priors[1].sample = watched  # type: ignore[method-assign]
    means = generator.sample(5, c=1, seed=3, progress=told_done.append)
    first = top.sample(5, 1, seed=3)[:, 0]
    second = bottom.sample(5, {"classes": torch.tensor(1), "image": first}, seed=seeds[0])[:, 0]
    expected = decoder.picture(decoder.join([first, second])).round().long()
    assert torch.equal(means, expected)
    # The same uniform numbers for both would draw codes that depend on each other.
    noise = [site_noise((1, 2, 2), seed, [0]) for seed in (3, seeds[0])]
    assert (noise[0] - noise[1]).abs().min() > 1e-3
    assert told_done == sorted(told_done)
    assert told_done[-1] == 1
    assert 0.2 in told_done
    assert torch.equal(generator.sample(5, c=1, seed=3, batch_size=2), means)
    assert torch.equal(generator.sample(1, c=1, seed=3, numbers=[4])[0], means[4])
    drawn = generator.sample(5, c=1, seed=3, pixels="draw")
    codes = decoder.join([first, second])
    assert torch.equal(drawn, decoder.sample(5, codes, seed=part_seed(3, 2)))
    with pytest.raises(UserError, match="has two"):
        generator.complete(drawn, torch.ones(4, 4, dtype=torch.bool), c=1)


def test_commands_of_a_bundle(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("sample all -n 6 --seed 2 --npz s.npz --out s.png", capsys)
    with np.load("s.npz") as file:
        expected = LatentGenerator.load("all").sample(6, torch.arange(6) % 3, seed=2)
        assert np.array_equal(file["x"], expected.numpy())
    assert "20 codes an image" in run("reconstruct vq -n 2 --draws 1 --out r.png", capsys)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("bundle vq bottom top --out x", "the top's first"),
        ("bundle vq top --out x", "takes two priors"),
        ("bundle vq top top --out x", "the top's first"),
        ("sample bottom", "conditioned on the top codes"),
        ("sample vq", "no prior"),
        ("eval top --data codes:vq#bottom", "has (1, 4, 4)"),
        ("compare bottom --data codes:vq#bottom --out x", "priors over the top codes"),
        ("eval top --top top", "leave it out"),
        ("eval bottom --top bottom", "the top's first"),
        (f"train {PRIOR} --data codes:vq#middle --out x", "does not exist"),
        (
            f"train {PRIOR} --data codes:vq#bottom --task denoise --out x",
            "leave --task and",
        ),
    ],
)
def test_refused(words: str, reason: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reason in refused(words, capsys)


def test_another_codebook_is_refused(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("vq", "all"):
        shutil.copytree(name, tmp_path / name)
    model = load("vq")
    assert isinstance(model, VQVAE2)
    model.bottom_quantizer.codebook.copy_(model.bottom_quantizer.codebook.roll(1, 0))
    model.save(tmp_path / "vq" / "best")
    words = f"bundle {tmp_path}/vq top bottom --out {tmp_path}/x"
    assert "another model" in refused(words, capsys)
    words = f"eval bottom --data codes:{tmp_path}/vq#bottom"
    assert "not of the same codebook" in refused(words, capsys)
    model.save(tmp_path / "all" / "decoder")
    assert "do not belong together" in refused(f"sample {tmp_path}/all", capsys)


def test_one_grid_has_no_bottom(here: Path, tmp_path: Path) -> None:
    words = f"train {VQ.replace('VQVAE2', 'VQVAE')} --data tiny.npz --conditional false"
    succeed(f"{words} --out {tmp_path}/one {TRAIN} 1")
    with pytest.raises(UserError, match="no bottom"):
        load_codes(f"{tmp_path}/one#bottom")
