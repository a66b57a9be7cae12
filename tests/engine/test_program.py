"""The compiled program."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nextpixel.engine.program import INSTRUCTION, OPERATIONS, load_program

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
both_types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@needs_compiler
@both_types
def test_it_compiles(dtype: torch.dtype) -> None:
    assert load_program(dtype) is not None
    assert load_program(torch.bfloat16) is None


@needs_compiler
@both_types
@pytest.mark.parametrize("columns", [1, 3, 16, 37])
def test_functions(dtype: torch.dtype, columns: int) -> None:
    library = load_program(dtype)
    assert library is not None
    torch.manual_seed(0)
    scales = torch.tensor([1e-6, 1e-3, 0.1, 1, 3, 30, 500], dtype=dtype)
    a = torch.stack([torch.randn(columns, dtype=dtype) * s for s in scales])
    b = torch.randn(7, columns, dtype=dtype)
    expected = {
        "copy": a,
        "relu": a.relu(),
        "elu": nn.functional.elu(a),
        "sigmoid": a.sigmoid(),
        "tanh": a.tanh(),
        "negate": -a,
        "scale": a * 2.5,
        "shift": a + 2.5,
        "add": a + b,
        "subtract": a - b,
        "multiply": a * b,
    }
    assert expected.keys() | {"product", "cast", "gather"} == OPERATIONS.keys()

    def operand(x: Tensor) -> tuple[int, int, int, tuple[int, int, int]]:
        return (x.data_ptr(), 0, 0, (x.stride(0), 0, x.stride(1)))

    for name, values in expected.items():
        out = torch.empty_like(a)
        lines = (operand(out), operand(a), operand(b), (0, 0, 0, (0, 0, 0)))
        line = np.array([(OPERATIONS[name], 1, columns, 0, 0, 0, *lines, 2.5)], INSTRUCTION)
        library.replay(line.ctypes.data, 1, 0, 0, 7, 1)
        small = 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(out, values, rtol=small, atol=small / 1e6, msg=name)


@needs_compiler
def test_the_compiler_may_come_as_a_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, forget: Callable[[], None]
) -> None:
    package, cc = tmp_path / "ziglang", shutil.which("cc")
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(
        f"import subprocess, sys; sys.exit(subprocess.call([{cc!r}, *sys.argv[2:]]))"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("nextpixel.utils.compiling.shutil.which", lambda name: None)
    assert load_program(torch.float64) is None
    forget()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    assert load_program(torch.float64) is not None


@needs_compiler
def test_it_is_compiled_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, forget: Callable[[], None]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load_program(torch.float64) is not None
    forget()
    monkeypatch.setattr(subprocess, "run", None)
    assert load_program(torch.float64) is not None
