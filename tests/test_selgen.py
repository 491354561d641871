"""`selgen`: every command of the package under one name."""

from __future__ import annotations

import pytest

from selgen_ray.__main__ import main


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("sweep", "space.yaml"),
        ("status", "sweep status"),
        ("stop", "--all"),
        ("retry", "--failed"),
        ("add", "--different"),
        ("rm", "--yes"),
        ("report", "--watch"),
        ("strategies", "--plugin"),
        ("data", "show"),
        ("import", "--results"),
    ],
)
def test_each_command_has_its_help_and_stands_in_the_overview(command, told, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0 and told in capsys.readouterr().out
    assert main([]) == 0
    assert f"\n  {command} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "meant"), [("staus", "status"), ("reprot", "report"), ("improt", "import"), ("strategy", "strategies")]
)
def test_a_misspelt_command_is_told_the_nearest(word, meant, capsys):
    assert main([word]) == 2
    assert f"Did you mean {meant!r}?" in capsys.readouterr().err


def test_commands_do_their_work_and_pass_on_what_went_wrong(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["strategies", "show", "naive"]) == 0
    assert "naive" in capsys.readouterr().out
    assert main(["status", "nowhere"]) == 2
    assert main(["report", "nowhere"]) == 2
    assert main(["sweep", "nowhere.yaml"]) == main(["nowhere.yaml"]) == 2
    told = capsys.readouterr().err
    assert told.count("nowhere") >= 4 and "Traceback" not in told


def test_a_file_with_the_name_of_a_command_is_a_search_space(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report").write_text("strategy: naive\n")
    assert main(["report"]) == 2
    assert "report:1" in capsys.readouterr().err
