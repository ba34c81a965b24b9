"""esc-jax report, as a user calls it."""

import pathlib
import re
import subprocess
import sys

import pytest

from esc_jax.cli import report


def test_a_folder_without_runs(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 1
    message = f"{tmp_path} contains no run: there is no results.json in any subfolder"
    assert capsys.readouterr().err == f"esc_jax: {message}\n"
    assert report.main([str(tmp_path / "missing")]) == 2
    assert capsys.readouterr().err == f"esc_jax: {tmp_path / 'missing'} does not exist\n"
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/results.json").write_text("{")
    assert report.main([str(tmp_path)]) == 1
    assert "damaged/results.json is incomplete or damaged" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_report_that_cannot_be_written(runs_dir, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert report.main([str(runs_dir), f"--out={tmp_path / 'file'}"]) == 1
    assert capsys.readouterr().err == f"esc_jax: File exists: {tmp_path / 'file'}\n"


def test_the_best_run_is_printed(runs_dir, tmp_path, capsys):
    assert report.main([str(runs_dir), f"--out={tmp_path}"]) == 0
    best, *notes, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"esc50, 48 clips: 4 runs, best on 2 folds: cv, accuracy 95\.83 \(\d+\.\d–\d+\.\d\) %", best)
    assert len(notes) == 2 and last == f"report: {tmp_path / 'report.html'} and report.md"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give RUNS_DIR, or two runs"),
        (["runs", "--ouut=x"], "did you mean --out?"),
        (["--compare", "a"], "expected 2 arguments"),
        (["--compare", "a", "b", "--out=c"], "takes no --out"),
    ],
)
def test_wrong_command_lines(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        report.main(arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1


def test_the_command(run, runs_dir):
    output = run("report", "--help").stdout
    assert "RUNS_DIR" in output and "--compare RUN_A RUN_B" in output
    output = run("report", "--compare", str(runs_dir / "deep/poor"), str(runs_dir / "good")).stdout
    basis = r"\(24 clips of 12 recordings; 7 correct only with good, 2 only with poor\)\n"
    assert re.fullmatch(rf"good .* 20\.8 points of accuracy .*McNemar p=0\.18 {basis}", output)


def test_help_does_not_import_numpy():
    code = "import sys; import esc_jax.cli.report; sys.exit('numpy' in sys.modules or 'jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=pathlib.Path(report.__file__).parents[2]).returncode == 0
