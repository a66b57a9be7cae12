"""Completion in latent space: of test images and files, by the generator and the command."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from nextpixel import GatedPixelCNN
from nextpixel.data import DataRecord, load
from nextpixel.evaluation import likelihood
from nextpixel.latents.generator import LatentGenerator
from nextpixel.model_folders import training_record
from nextpixel.models import VQVAE
from nextpixel.viz import images as pictures
from tests.helpers import refused, run, succeed, working_in

SHAPE = (3, 8, 12)  # 2x3 codes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny images, the run folders of a VQ-VAE and its prior, and a bundle of both.

    The weights are random, but the codes of different images differ.
    """
    folder = tmp_path_factory.mktemp("bundle")
    random = np.random.default_rng(0)
    x = random.integers(0, 8, (30, *SHAPE)).astype(np.uint8)
    np.savez(folder / "tiny.npz", x=x, y=np.arange(30) % 3, levels=8)
    torch.manual_seed(0)
    decoder = VQVAE(shape=SHAPE, levels=8, width=4, codes=9, code_size=3, components=2)
    with torch.no_grad():
        z = decoder.encoder(decoder.encode(torch.from_numpy(x)))
    decoder.quantizer.codebook.copy_(z.movedim(1, -1).reshape(-1, 3)[::20])
    prior = GatedPixelCNN(
        shape=(1, 2, 3), levels=9, classes=3, width=8, blocks=2, kernel_size=3, inputs="embedded"
    )
    prior.data_record = DataRecord(codes_of=decoder.digest())
    for name, model, data in (("vq", decoder, "tiny.npz"), ("prior", prior, "codes:vq")):
        model.save(folder / name / "best")
        (folder / name / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    with working_in(folder):
        succeed("bundle vq prior --out both")
    return folder


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch) -> dict[str, pictures.Pixels]:
    """The columns of the last picture."""
    seen: dict[str, pictures.Pixels] = {}
    real = pictures.side_by_side

    def side_by_side(columns: dict[str, pictures.Pixels], levels: int) -> Image.Image:
        seen.clear()
        seen.update(columns)
        return real(columns, levels)

    monkeypatch.setattr(pictures, "side_by_side", side_by_side)
    return seen


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The codes of which pictures are made, `(B, h, w)` each."""
    seen: list[Tensor] = []
    real = VQVAE.picture
    monkeypatch.setattr(
        VQVAE, "picture", lambda model, z, seed=0: (seen.append(z), real(model, z, seed))[1]
    )
    return seen


@pytest.mark.parametrize(
    ("option", "kept"),
    [
        ("", [[1, 1, 1], [0, 0, 0]]),
        ("--hide top", [[0, 0, 0], [1, 1, 1]]),
        ("--keep left", [[1, 0, 0], [1, 0, 0]]),  # a code on the border has hidden pixels
        ("--box 7,3,1,2", [[1, 1, 1], [0, 0, 1]]),
        ("--codes 4", [[1, 1, 1], [1, 0, 0]]),
    ],
)
def test_known_codes_are_kept_and_the_others_sampled(
    option: str,
    kept: list[list[int]],
    here: Path,
    capsys: pytest.CaptureFixture[str],
    columns: dict[str, pictures.Pixels],
    decoded: list[Tensor],
) -> None:
    out = run(f"complete both -n 3 --draws 2 --seed 5 --out c.png {option}", capsys)
    generator, test = LatentGenerator.load("both"), load("tiny.npz").test
    x, mask = torch.from_numpy(test.x), torch.tensor(kept).bool()
    codes = generator.codes(x)
    own, *drawn = decoded
    assert torch.equal(own, codes[:, 0])
    assert len(drawn) == 2
    for other in drawn:
        assert torch.equal(other[:, mask], own[:, mask])
    assert not torch.equal(drawn[0], drawn[1])

    together = generator.complete(x.repeat(2, 1, 1, 1), mask, np.tile(test.y, 2), seed=5)
    names = ["original", "given", "reconstruction", "completion 1", "completion 2", "bits per code"]
    assert list(columns) == names
    for number, expected in enumerate(torch.split(together, 3), 1):
        assert np.array_equal(columns[f"completion {number}"], pictures.to_uint8(expected, 8))
    pixels = mask.repeat_interleave(4, 0).repeat_interleave(4, 1).numpy()
    assert np.array_equal(columns["original"][..., pixels], columns["given"][..., pixels])
    tint = columns["given"][..., ~pixels]
    assert (tint == tint[:1, :, :1]).all()
    with Image.open("c.png") as picture:
        assert picture.mode == "RGB"

    assert f"The {6 - mask.sum()} hidden codes" in out
    with torch.inference_mode():
        log_prob = generator.prior(codes, generator.context(test.y, 3)).log_prob(codes)
    bits = -log_prob[..., ~mask].sum().item() / 3 / np.log(2)
    assert f"mean:    {bits:8.1f} bits" in out


def test_particles_of_codes(
    here: Path, capsys: pytest.CaptureFixture[str], decoded: list[Tensor]
) -> None:
    out = run("complete both -n 2 --draws 1 --hide top --particles 8", capsys)
    assert "all known codes" in out
    own, drawn = decoded
    assert torch.equal(drawn[:, 1], own[:, 1])
    assert not torch.equal(drawn[:, 0], own[:, 0])


def test_styles_of_a_picture_file(
    here: Path, capsys: pytest.CaptureFixture[str], columns: dict[str, pictures.Pixels]
) -> None:
    x = load("tiny.npz").test.x[:1]
    pixels = pictures.to_uint8(x, 8)
    Image.fromarray(pixels[0].transpose(1, 2, 0)).save("one.png")
    run("complete both one.png --class 2 --codes 2 --draws 3 --temperature 2", capsys)
    assert np.array_equal(columns["original"], pixels)
    generator = LatentGenerator.load("both")
    mask = torch.tensor([[True, True, False], [False] * 3])
    again = torch.from_numpy(x).repeat(3, 1, 1, 1)
    expected = generator.complete(again, mask, c=2, temperature=2.0)
    for number in range(3):
        shown = pictures.to_uint8(expected[number : number + 1], 8)
        assert np.array_equal(columns[f"completion {number + 1}"], shown)
    assert "give --class" in refused("complete both one.png", capsys)


def test_a_bundle_knows_its_data(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert training_record("both/decoder")["data"] == "tiny.npz"
    assert training_record("both/prior")["data"] == "codes:vq"
    assert "bits per code" in run("eval both/prior", capsys)
    generator = LatentGenerator.load("both")
    generator.decoder.save("plain-vq")
    generator.prior.save("plain-prior")
    run("bundle vq prior --out again", capsys)
    run("bundle plain-vq plain-prior --out again", capsys)
    assert "give --data" in refused("complete again", capsys)
    run("complete again --data tiny.npz -n 1 --draws 1 --out c.png", capsys)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("complete both --codes 6", "give at most 5"),
        ("complete both --codes 2 --keep top", "not allowed"),
        ("complete mnist --codes 3", "models pixels"),
        ("complete both --class 1", "already have classes"),
        ("complete both --box 7,0,2,2", "does not lie"),
        ("complete both --particles 4 --temperature 0.5", "leave --temperature out"),
        ("complete vq", "autoregressive"),
        ("inspect both", "nextpixel sample or complete"),
    ],
)
def test_refused(words: str, reason: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reason in refused(words, capsys)


def test_bits_of_hidden_codes_are_the_priors(here: Path) -> None:
    generator = LatentGenerator.load("both")
    codes = generator.codes(torch.from_numpy(load("tiny.npz").test.x))
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    bits = likelihood.hidden_bits(generator.prior, codes, nothing, 0)
    score = -generator.prior.log_prob(codes, 0) / np.log(2)
    torch.testing.assert_close(bits.flatten(1).sum(1), score.detach())
