import json
import sys

import pytest

from samestyle.notify import notify


@pytest.fixture
def summary(tmp_path):
    path = tmp_path / "a run" / "summary.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"outcome": "refused", "exit_code": 3}))
    return path


def test_the_command_gets_the_summary_by_name_and_as_its_input(summary, tmp_path, capsys):
    script = tmp_path / "tell.py"
    script.write_text(
        "import json, pathlib, sys\n"
        "told = [sys.argv[1:], json.load(sys.stdin)]\n"
        f"pathlib.Path({str(tmp_path / 'told')!r}).write_text(json.dumps(told))\n"
    )
    notify(f"{sys.executable} '{script}' 'two words'", summary, 60)
    assert json.loads((tmp_path / "told").read_text()) == [
        ["two words", str(summary)],
        {"outcome": "refused", "exit_code": 3},
    ]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/nowhere/alert", "No such file"),
        ("sh -c 'echo on fire >&2; exit 7'", "ended with 7: on fire"),
        ("sh -c 'sleep 60'", "timed out"),
        ("sh -c 'open quote", "No closing quotation"),
    ],
)
def test_a_command_that_fails_is_told_and_changes_nothing(summary, capsys, command, said):
    notify(command, summary, 0.5)
    out = "".join(capsys.readouterr())
    assert "notify.command" in out
    assert said in out


def test_without_a_command_nothing_happens(tmp_path):
    notify(None, tmp_path / "not there", 1)
