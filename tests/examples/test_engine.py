"""The programs of docs/engine.md: in Python, the web service without PyTorch, and the one in C."""

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from nextpixel.engine import Program
from tests.helpers import ROOT, needs, succeed

TEXT = (ROOT / "docs" / "engine.md").read_text()
BLOCKS = {
    kind: re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    for kind in ("python", "c", "sh")
}
SERVICE, IN_C = ROOT / "examples" / "serve_digits.py", ROOT / "examples" / "draw_digits.c"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "digits.program"
    succeed(f"export mnist --program {path}")
    return path


def test_the_page_shows_the_examples() -> None:
    assert BLOCKS["python"][1:] == [SERVICE.read_text()]
    main = IN_C.read_text().partition("int main")[2]
    assert BLOCKS["c"] == [f"int main{main}"]


def test_the_code_of_the_page_runs(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(program.parent)
    scope: dict[str, Any] = {}
    exec(BLOCKS["python"][0], scope)
    assert scope["x"].shape == (4, 1, 28, 28)
    assert (scope["nats"] > 0).all()


@pytest.fixture
def service(program: Path, tmp_path: Path) -> Iterator[str]:
    """The address of the web service, which cannot import anything but NumPy and Pillow."""
    for name in ("torch", "scipy", "matplotlib", "yaml", "rich", "safetensors"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); del sys.argv[0]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    words = [sys.executable, "-c", code, str(SERVICE), str(program), "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


def test_the_web_service_draws_digits(service: str, program: Path) -> None:
    with urlopen(service, timeout=60) as answer:
        assert answer.headers["Content-Type"] == "image/png"
        picture = Image.open(io.BytesIO(answer.read()))
    expected = Program.load(program).sample(1, classes=[3], numbers=[42])[0, 0]
    assert np.array_equal(np.asarray(picture), expected)
    for wrong in ("/", "/a/1.png", "/10/1.png", "/3/1"):
        with pytest.raises(HTTPError, match="404: Ask for /DIGIT/NUMBER"):
            urlopen(service.replace("/3/42.png", wrong), timeout=60)


@pytest.mark.skipif(sys.platform == "win32", reason="the commands are for a Unix shell")
def test_the_program_in_c_draws_the_same_digits(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("cc", "gcc")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "digits.program").symlink_to(program)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{Path('/usr/bin')}:/bin")
    (commands,) = BLOCKS["sh"]
    strict = commands.replace("cc -O2", "cc -O2 -Wall -Wextra -Werror")
    subprocess.run(["sh", "-ec", strict], check=True)
    picture = Image.open("threes.pgm")
    expected = Program.load(program).sample(8, classes=[3] * 8, seed=0)
    assert np.array_equal(np.asarray(picture), expected.reshape(8 * 28, 28))
    for words, status in (("digits.program 10 1", 1), ("examples/draw_digits.c 3 1", 1)):
        done = subprocess.run(["./draw_digits", *words.split(), "never.pgm"], capture_output=True)
        assert (done.returncode, done.stdout) == (status, b"")
        assert done.stderr.startswith(b"draw_digits: ")
    assert not Path("never.pgm").exists()
