"""`nextpixel models`: mistakes."""

from pathlib import Path

import pytest

from tests.helpers import assert_refused


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("models PixelCN", "did you mean PixelCNN?"),
        ("models nothing", "nothing does not exist"),
        ("models nothing", "mnist-super-resolution, photos, spoken-digits, vq-mnist)"),
        ("models my_file.Nothing", "no model my_file.Nothing"),
        ("models nothing.MyNet", "No module named 'nothing'"),
        ("models json.JSONEncoder", "not a subclass"),
        ("models nextpixel.models.pixel_rnn.PixelRNN", "does not define layer"),
        ("models PixelCNN --shape 1,28", "3 whole numbers"),
        ("models PixelCNN --shape 1,0,28", "(1, 0, 28)"),
        ("models PixelCNN --levels 1", "at least 2 levels"),
        ("models mnist --shape 1,8,8", "are for a kind of model"),
        ("models --classes 3", "are for a kind of model"),
    ],
)
def test_mistakes(words: str, reason: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(words, reason, here, capsys)
