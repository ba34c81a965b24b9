"""The command line, as a user gives it."""

import pathlib
import re
import resource
import subprocess
import sys

import pytest

from esc_jax.cli import report
from esc_jax.report import command as report


def test_no_run_at_all(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"esc_jax: {tmp_path} holds no run: there is no results.json in it or below it\n"
    assert report.main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == f"esc_jax: {tmp_path / 'nowhere'} does not exist\n"
    (tmp_path / "half").mkdir()
    (tmp_path / "half/results.json").write_text("{")
    assert report.main([str(tmp_path)]) == 1
    assert "half/results.json is not whole" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_report_that_cannot_be_written(runs_dir, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert report.main([str(runs_dir), f"--out={tmp_path / 'file'}"]) == 1
    assert capsys.readouterr().err == f"esc_jax: File exists: {tmp_path / 'file'}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give RUNS_DIR, or two runs"),
        (["runs", "--ouut=x"], "did you mean --out?"),
        (["--compare", "a"], "expected 2 arguments"),
        (["--compare", "a", "b", "--out=c"], "takes no --out"),
    ],
)
def test_wrong_command_lines(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        report.main(arguments)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and words in said and said.count("\n") == 1


def test_commands_as_a_user_gives_them(run, runs_dir):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    printed = run("report", "--help").stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "RUNS_DIR" in printed and "--compare RUN_A RUN_B" in printed
    # Two seconds are promised; processor time, since other work may share this machine.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    printed = run("report", "--compare", str(runs_dir / "deep/poor"), str(runs_dir / "good")).stdout
    assert re.match(r"good .* 20\.8 points .*McNemar p=0\.18 \(24 clips of 12 recordings; 7 right with good", printed)


def test_help_needs_nothing():
    code = "import sys; import esc_jax.report; sys.exit('numpy' in sys.modules or 'jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=pathlib.Path(report.__file__).parents[2]).returncode == 0
