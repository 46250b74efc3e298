"""Commands: dispatch, flags, and how a mistake, an interrupt or a closed pipe ends a process."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from pipeline.cli import Command, choose, parse

ROOT = Path(__file__).resolve().parent.parent

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
ENVIRONMENT["PYTHONPATH"] = str(ROOT)

PROGRAM = """
import sys, time
from dataclasses import dataclass
from pipeline.cli import Command, dispatch
from pipeline.errors import DataError

@dataclass(frozen=True)
class Flags:
    times: int = 1
    \"\"\"Number of greetings.\"\"\"

    def __post_init__(self):
        if self.times < 0:
            raise DataError(f"--times is {self.times}; expected 0 or more")

def greet(flags):
    for number in range(flags.times):
        print("hello", number)

def refuse(flags):
    raise DataError("a.tar is damaged; build it again")

def wait(flags):
    print("waiting", flush=True)
    time.sleep(60)

def exhaust(flags):
    raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

def crash(flags):
    raise RuntimeError("a defect")

def name(flags):
    print("gr\\u00f6\\u00dfe", "\\udcf6")

def open_file(flags):
    open("/proc/nobody/may")

names = ("greet", "refuse", "wait", "exhaust", "crash", "name")
COMMANDS = {name: Command(f"{name} somebody", "program:Flags", f"program:{name}") for name in names}
COMMANDS["open"] = Command("open a file", "program:Flags", "program:open_file")
COMMANDS["heavy"] = Command("import much", "program:Flags", "no_such_module:run")

if __name__ == "__main__":
    dispatch(COMMANDS)
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    """The words that start a program with sub-commands."""
    (tmp_path / "program.py").write_text(PROGRAM)
    return [sys.executable, str(tmp_path / "program.py")]


@pytest.fixture
def run(program: list[str]) -> Run:
    def start(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *words], capture_output=True, text=True, check=False, env=ENVIRONMENT
        )

    return start


def test_a_command_runs_with_its_flags(run: Run) -> None:
    done = run("greet", "--times", "2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello 0\nhello 1\n", "")


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_without_a_command_all_are_listed(run: Run, words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 0
    assert "usage: program.py COMMAND" in done.stdout
    assert "greet" in done.stdout and "import much" in done.stdout


def test_help_of_a_command_does_not_import_what_runs_it(run: Run) -> None:
    done = run("heavy", "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: program.py heavy" in done.stdout
    assert "Import much." in done.stdout and "Number of greetings." in done.stdout


def test_a_misspelt_command_or_flag_gets_the_nearest_one(run: Run) -> None:
    done = run("grete")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no command 'grete'; did you mean greet? there are greet,")
    done = run("greet", "--tmes", "3")
    assert done.returncode == 2
    assert "--times" in done.stdout + done.stderr
    done = run("zzz")
    assert done.returncode == 2 and "did you mean" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("refuse",), "error: a.tar is damaged; build it again\n"),
        (("greet", "--times", "-1"), "error: --times is -1; expected 0 or more\n"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    run: Run, words: tuple[str, ...], message: str
) -> None:
    done = run(*words)
    assert (done.returncode, done.stderr) == (2, message)


def test_memory_that_runs_out_is_explained(run: Run) -> None:
    done = run("exhaust")
    assert done.returncode == 2
    assert done.stderr.startswith("error: out of GPU memory: use a smaller --batch-size")


def test_a_file_that_cannot_be_used_is_one_message(run: Run) -> None:
    done = run("open")
    assert done.returncode == 2
    assert done.stderr.startswith("error: /proc/nobody/may: No such file")


def test_names_in_no_encoding_of_the_terminal_are_printed_escaped(program: list[str]) -> None:
    env = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*program, "name"], capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stdout) == (0, "gr\\xf6\\xdfe \\udcf6\n"), done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_a_user_without_a_home_gets_one_and_nothing_reports_home(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    code = (
        "import os; from pathlib import Path; from pipeline.cli import prepare_process\n"
        "os.environ.pop('HOME'); os.setuid(4242); prepare_process()\n"
        "print(Path.home(), os.environ['ORT_DISABLE_TELEMETRY'], os.environ['DO_NOT_TRACK'])"
    )
    env = {**ENVIRONMENT, "TMPDIR": str(tmp_path), "DO_NOT_TRACK": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env
    )
    assert done.stdout.split()[1:] == ["1", "0"], done.stderr
    assert done.stdout.split()[0].endswith("/dermpipe-4242")


def test_a_defect_keeps_its_traceback(run: Run) -> None:
    done = run("crash")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "RuntimeError: a defect" in done.stderr


def test_ctrl_c_is_exit_code_130(program: list[str]) -> None:
    process = subprocess.Popen(
        [*program, "wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in errors and "Traceback" not in errors


@pytest.mark.parametrize("times", [3, 100_000])
def test_a_closed_pipe_is_exit_code_1_without_a_traceback(program: list[str], times: int) -> None:
    """Little output breaks the pipe when it is flushed, much output while it is printed."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*program, "greet", "--times", str(times)],
        stdout=write,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@dataclass(frozen=True)
class Model:
    """What is learnt."""

    arch: Literal["small", "large"] = "small"
    """Architecture."""


@dataclass(frozen=True)
class Settings:
    """Train a model."""

    model: Model = field(default_factory=Model)
    lr: float = 1e-3
    """Learning rate."""
    shuffle: bool = True
    """Whether to shuffle."""


def test_nested_flags_are_flat_and_grouped_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    found = parse(Settings, argv=["--arch", "large", "--lr", "0.1", "--no-shuffle"])
    assert found == Settings(Model("large"), 0.1, False)
    with pytest.raises(SystemExit) as leaving:
        parse(Settings, argv=["--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    assert "--arch {small,large}" in text and "model options" in text
    assert "Train a model." in text and "0.001" in text


def test_the_default_command_takes_flags_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    flags = "pipeline.ham10000.flags:SynthesizeFlags"
    commands = {name: Command(f"{name} images", flags) for name in ("paint", "count")}
    word, found = choose(commands, default="paint", argv=["--images", "9"])
    assert (word, found.images) == ("paint", 9)
    assert choose(commands, default="paint", argv=["count"])[0] == "count"
    with pytest.raises(SystemExit):
        choose(commands, default="paint", argv=["--help"])
    text = capsys.readouterr().out
    assert "Paint images." in text and "count --help" in text
