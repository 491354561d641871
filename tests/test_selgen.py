"""`selgen`: every command of the package under one name, its help, and its completion in real shells."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selgen_ray import __version__
from selgen_ray.__main__ import COMMANDS, main
from selgen_ray.sweep.completion import strategy_names
from selgen_ray.trainers import registry

ROOT = Path(__file__).parents[1]
TOLD = {
    "sweep": "space.yaml",
    "status": "--json",
    "stop": "--all",
    "retry": "--failed",
    "add": "--different",
    "rm": "--yes",
    "report": "--watch",
    "strategies": "--plugin",
    "data": "show",
    "import": "--results",
    "init": "--task-test",
    "doctor": "--skip",
    "completion": "bash",
}


def test_the_table_above_has_every_command():
    assert TOLD.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", [*TOLD, "data show", "strategies show"])
def test_the_help_of_each_command_has_one_layout(command, capsys):
    """Usage, one sentence, the options, an example, in this order."""
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert TOLD.get(command, "") in shown
    usage, sentence, *sections, example = re.split(r"\n\n", shown.rstrip("\n"))
    assert usage.startswith(f"usage: selgen {command.split()[0]}")
    assert re.fullmatch(r"[A-Z][^\n]*\.", sentence)
    assert any(section.startswith("options:\n") for section in sections)
    assert re.fullmatch(rf"example:\n  selgen {command.split()[0]} [^\n]+", example)


def test_the_overview_lists_them_in_the_same_layout(capsys):
    assert main([]) == main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command, told in COMMANDS.items():
        assert f"\n  {command:10}  {told.sentence}\n" in shown
    usage, sentence, commands, options, example = re.split(r"\n\n", shown[: len(shown) // 2].rstrip("\n"))
    assert usage.startswith("usage: ") and sentence.endswith(".") and commands.startswith("commands:\n")
    assert options.startswith("options:\n") and example.startswith("example:\n  selgen ")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"selgen {__version__}\n"


@pytest.mark.parametrize(
    ("word", "meant"), [("staus", "status"), ("reprot", "report"), ("improt", "import"), ("strategy", "strategies")]
)
def test_a_misspelt_command_is_told_the_nearest(word, meant, capsys):
    assert main([word]) == 2
    assert f"Did you mean {meant!r}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("sweep space.yaml --dyr-run", "--dry-run"),
        ("sweep --dyr-run", "--dry-run"),  # before the file that is missing too
        ("space.yaml --time-buget=8h", "--time-budget"),
        ("sweep space.yaml --progress rch", "rich"),
        ("retry sweeps/mine --faild", "--failed"),
        ("report sweeps/mine --wacth", "--watch"),
        ("strategies show naive --plugni x.py", "--plugin"),
        ("data shwo space.yaml", "show"),
        ("data show space.yaml --role prxoy", "proxy"),
        ("import old --reslts", "--results"),
        ("completion bsah", "bash"),
    ],
)
def test_a_misspelt_option_or_value_is_told_the_nearest(words, meant, capsys):
    with pytest.raises(SystemExit) as end:
        main(words.split())
    told = capsys.readouterr().err
    assert end.value.code == 2 and told.startswith("usage: selgen ")
    assert told.endswith(f"Did you mean {meant!r}?\n")


def test_a_misspelt_option_of_its_own(capsys):
    assert main(["--vresion"]) == 2
    assert "Did you mean '--version'?" in capsys.readouterr().err


def test_commands_do_their_work_and_pass_on_what_went_wrong(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["strategies", "show", "naive"]) == 0
    assert "naive" in capsys.readouterr().out
    assert main(["status", "nowhere"]) == 2
    assert main(["report", "nowhere"]) == 2
    assert main(["sweep", "nowhere.yaml"]) == main(["nowhere.yaml"]) == 2
    told = capsys.readouterr().err
    assert told.count("nowhere") >= 4 and "Traceback" not in told
    with pytest.raises(SystemExit):
        main(["import"])
    assert capsys.readouterr().err.startswith("usage: selgen import")


def test_a_file_with_the_name_of_a_command_is_a_search_space_and_a_folder_is_none(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report").write_text("strategy: naive\n")
    assert main(["report"]) == 2
    assert "report:1" in capsys.readouterr().err
    for folder in ("data", "status"):  # as in the first page's own example
        (tmp_path / folder).mkdir()
    assert main(["data", "show", "nowhere.yaml"]) == main(["status", "nowhere"]) == 2
    told = capsys.readouterr().err
    assert "nowhere.yaml" in told and "no sweep at" in told


def test_help_and_what_is_said_of_a_misspelt_option_import_no_pytorch():
    """They are there in tenths of a second, where PyTorch would take seconds."""
    code = """
import sys
from selgen_ray.__main__ import COMMANDS, main
main(["--help"])
heavy = ("torch", "ray", "transformers", "pandas")
for word in [*COMMANDS, "sweep --dyr-run", "__complete sweep --progress "]:
    try:
        main(word.split() if " " in word else [word, "--help"])
    except SystemExit:
        pass
    if loaded := [name for name in heavy if name in sys.modules]:
        sys.exit(f"{word}: {loaded}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


# completion ------------------------------------------------------------------------------------------------------


def test_the_names_that_are_offered_are_those_of_the_shipped_strategies():
    registry.import_shipped()
    shipped = [name for name, trainer in registry.TRAINERS.items() if trainer.__module__.startswith("selgen_ray.")]
    assert strategy_names() == sorted(shipped)


CASES = [  # what is typed before TAB, and the arguments that the command then gets
    ("sta", ["status"]),
    ("strategies show kl_d", ["strategies", "show", "kl_divergence"]),
    ("sweep first", ["sweep", "first.yaml"]),
    ("fir", ["first.yaml"]),
    ("sweep 'first.yaml' --dr", ["sweep", "first.yaml", "--dry-run"]),
    ("sweep --progress ri", ["sweep", "--progress", "rich"]),
    ("sweep --progress=ri", ["sweep", "--progress=rich"]),
    ("sweep two", ["sweep", "two words.yaml"]),
    ("data sh", ["data", "show"]),
    ("data show --role outc", ["data", "show", "--role", "outcome"]),
    ("report --ref", ["report", "--reference"]),
    ("stop sweeps/m", ["stop", "sweeps/mine/"]),
    ("stop sweeps/mine dpo", ["stop", "sweeps/mine", "dpo_1a2b3c/seed_1"]),
    ("add sweeps/mine --strategies naive,kl", ["add", "sweeps/mine", "--strategies", "naive,kl_divergence"]),
    ("import --results experi", ["import", "--results", "experiments/"]),
    ("rep", ["report"]),
]


@pytest.fixture
def typist(tmp_path):
    """A folder in which `selgen` prints its arguments, and completes as the real one does."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    program = bin_folder / "selgen"
    program.write_text(
        f'#!/bin/sh\ncase "$1" in completion|__complete) exec {sys.executable} -m selgen_ray "$@";; esac\n'
        "printf 'got:'; printf '<%s>' \"$@\"; printf ':end\\n'\n"
    )
    program.chmod(0o755)
    home = tmp_path / "home"
    (home / "sweeps" / "mine" / "control").mkdir(parents=True)
    (home / "sweeps" / "mine" / "control" / "plan.json").write_text('{"trials": {"a1": "dpo_1a2b3c/seed_1"}}')
    (home / "experiments").mkdir()
    for name in ("first.yaml", "first.txt", "two words.yaml"):
        (home / name).write_text("")
    env = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "HOME": str(home), "PYTHONPATH": str(ROOT), "TERM": "dumb"}

    def type_into(shell: list[str], begin: str, texts: list[str]) -> list[list[str]]:
        """Type each text and TAB into a shell of a terminal; return the arguments that `selgen` then gets."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(home)
            os.execvpe(shell[0], shell, env)
        seen = ""

        def wait(pattern: str) -> str:
            nonlocal seen
            until = time.monotonic() + 60
            while not (match := re.search(pattern, seen, re.S)):
                assert time.monotonic() < until, f"no {pattern!r} in {seen!r}"
                if select.select([terminal], [], [], 1)[0]:
                    seen += os.read(terminal, 65536).decode(errors="replace")
            seen = seen[match.end() :]
            return match[1]

        try:
            os.write(terminal, f'{begin}\neval "$(selgen completion {Path(shell[0]).name})"\necho re""ady\n'.encode())
            wait("(ready)")
            arguments = []
            for text in texts:
                os.write(terminal, f"selgen {text}\t\n".encode())
                arguments.append(re.findall(r"<([^>]*)>", wait(r"got:((?:<[^>]*>)*):end")))
            return arguments
        finally:
            os.write(terminal, b"\x03\nexit\n")
            os.close(terminal)
            os.waitpid(pid, 0)

    return type_into


def test_bash_completes(typist):
    shell = ["bash", "--norc", "--noprofile", "-i"]
    texts = [text for text, _ in CASES]
    arguments = typist(shell, "bind 'set enable-bracketed-paste off'", texts)
    assert dict(zip(texts, arguments, strict=True)) == dict(CASES)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_completes(typist):
    texts = [text for text, _ in CASES]
    arguments = typist(["zsh", "-f", "-i"], "autoload -Uz compinit && compinit -u -D; unset zle_bracketed_paste", texts)
    assert dict(zip(texts, arguments, strict=True)) == dict(CASES)
