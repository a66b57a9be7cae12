"""What all commands share: help, mistyped names, output, memory that runs out, interrupts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nextpixel.cli import main as cli_main
from nextpixel.cli.main import main
from tests.helpers import assert_refused, command, refused, run

BUFFERED = {**os.environ, "PYTHONUNBUFFERED": ""}  # what is printed waits for the end


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--help"], 0),
        (["smaple", "mnist"], 2),
        (["complete", "run", "--particels", "2"], 2),
        (["sample", "run", "--class"], 2),
    ],
)
def test_help_and_mistakes_need_no_torch(words: list[str], expected: int) -> None:
    code = (
        "import sys; from nextpixel.cli.main import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'numpy', 'PIL', 'jsonargparse'} & set(sys.modules); "
        "sys.exit(99 if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == expected, done.stderr


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_waiting_threads_fall_asleep_soon(
    chosen: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = dict(chosen)
    monkeypatch.setattr(os, "environ", environment)
    assert main(["--version"]) == 0
    assert environment.get("GOMP_SPINCOUNT") == expected


@pytest.mark.parametrize("name", [name for name in cli_main.COMMANDS if name != "train"])
def test_the_help_of_a_command_needs_no_torch(name: str) -> None:
    code = (
        "import atexit, os, sys; from nextpixel.cli.main import main; "
        "atexit.register(lambda: {'torch', 'numpy', 'PIL'} & set(sys.modules) and os._exit(99)); "
        "main(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", code, name, "--help"], capture_output=True)
    assert done.returncode == 0


def test_help_shows_all_commands_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    out = run("--help", capsys)
    modules = {
        path.stem for path in Path(cli_main.__file__).with_name("commands").glob("[a-z]*.py")
    }
    assert modules == {
        cli_main.MODULES.get(name, name).replace("-", "_") for name in cli_main.COMMANDS
    }
    for group, names in cli_main.GROUPS.items():
        assert f"\n{group}:\n  {names[0]} " in out
        for name in names:
            assert f"\n  {name} " in out


@pytest.mark.parametrize("name", cli_main.COMMANDS)
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: nextpixel {name} [OPTIONS]")
    assert not re.search("type: |: null|Optional|Literal", out)
    assert f"nextpixel {name}" in out.split("xample")[1]


@pytest.mark.parametrize("name", [name for name in cli_main.COMMANDS if name != "train"])
def test_examples_can_be_read(name: str) -> None:
    for example in cli_main.command(name).EXAMPLES:
        program, of, *words = example.split()
        assert program == "nextpixel"
        assert of in cli_main.COMMANDS
        cli_main.read(of, cli_main.command(of), words)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version", capsys)[0].isdigit()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("bogus", "no command bogus"),
        ("smaple mnist", "did you mean sample?"),
        ("sample --hepl", "no option --hepl (did you mean --help?)"),
        ("sample judge-mnist", "judge-mnist holds a classifier, not a model of images"),
    ],
)
def test_mistakes(words: str, reason: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(words, reason, here, capsys)


def test_a_class_for_an_unconditional_model(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nextpixel import PixelCNN

    PixelCNN(shape=(1, 6, 5), levels=4, width=4, blocks=1).save(tmp_path)
    assert "unconditional" in refused(f"sample {tmp_path} --class 3", capsys)
    assert "unconditional" in refused(f"sample {tmp_path} --interpolate --class 3,8", capsys)
    assert "not known which data" in refused(f"eval {tmp_path}", capsys)
    assert "(1, 6, 5)" in refused(f"eval {tmp_path} --data mnist", capsys)
    assert "28 x 28" in refused(f"complete {tmp_path} seven.png", capsys)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_printed() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            command("--help"), stdout=full, stderr=subprocess.PIPE, text=True, env=BUFFERED
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "disk is full" in done.stderr


def test_output_that_nobody_reads() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command("--help"), stdout=write, stderr=subprocess.PIPE, text=True, env=BUFFERED
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


PRINT = (
    "import sys, types, nextpixel.cli.main as m;"
    "m.run = lambda argv: print('0.5 \\u00b1 0.1 \\u4e2d');"
    "sys.exit(m.main([]))"
)


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "0.5 ? 0.1 ?"), ("cp1252", "0.5 ± 0.1 ?")]
)
def test_a_terminal_that_lacks_a_sign_shows_another(encoding: str, shown: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINT],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode(encoding).strip() == shown


@pytest.mark.parametrize(("closed", "status"), [("models >&-", 0), ("nothing >&- 2>&-", 2)])
def test_closed_output_is_no_error(closed: str, status: int) -> None:
    words = f"{sys.executable} -m nextpixel {closed}"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_a_deleted_working_folder_is_one_sentence(tmp_path: Path) -> None:
    words = f"mkdir gone && cd gone && rmdir ../gone && {sys.executable} -m nextpixel models"
    done = subprocess.run(["sh", "-c", words], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "nextpixel: The current folder no longer exists: change to another one, as with cd.\n"
    )


def allocate_too_much(*args: object, **options: object) -> None:
    torch.empty(2**60, dtype=torch.uint8)


def run_out_of_gpu_memory(*args: object, **options: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 GiB.")


def misuse_a_memory_format(*args: object, **options: object) -> None:
    torch.eye(2).to_sparse().clone(memory_format=torch.channels_last)


@pytest.mark.parametrize("fail", [allocate_too_much, run_out_of_gpu_memory])
def test_too_little_memory_is_one_sentence(
    fail, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nextpixel.cli.loading.load", fail)
    assert "not enough memory" in refused("complete run --out never.png", capsys)


def test_other_errors_about_memory_are_raised(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextpixel.cli.loading.load", misuse_a_memory_format)
    with pytest.raises(RuntimeError, match="memory format"):
        main(["complete", "run", "--out", "never.png"])


def test_ctrl_c_ends_a_command(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nextpixel.cli.loading.load", interrupt)
    assert main(["complete", "run", "--out", "never.png"]) == 130
    assert capsys.readouterr().err == "nextpixel: interrupted.\n"
    assert not Path("never.png").exists()


def test_without_pytorch_a_command_says_so(here: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from nextpixel.cli.main import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, "eval", "run", "--limit", "1"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nextpixel: This needs PyTorch, which is not installed")
    assert done.stderr.count("\n") == 1


def test_homes_are_found_in_every_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["sample", "mnist", "-n", "1", "--out=~/a.png"]) == 0
    assert (tmp_path / "a.png").exists()
    assert main(["sample", "mnist", "-n", "1", "--out", "~/b.png"]) == 0
    assert (tmp_path / "b.png").exists()
    for words in (["sample", "~nobody-here/run"], ["eval", "m", "--data=~nobody-here/x"]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert "~nobody-here/" in error
        assert "begins with a home folder that is not known: write the whole path." in error
