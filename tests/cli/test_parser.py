"""The argument parser of all commands."""

import importlib
import pathlib

import pytest

from esc_jax.cli import parser as arguments


@pytest.fixture
def parse(capsys):
    """Parses a command line; returns the options, or the message of status 2."""
    parser = arguments.Parser("test", "A test.\n\n    with an example")
    arguments.add_model(parser, "a model")
    parser.add_argument("--hop_s", type=arguments.seconds())
    parser.add_argument("--level", type=arguments.decibels)
    parser.add_argument("--count", type=arguments.integer(1, 9))
    parser.add_argument("--kind", type=arguments.choice("stablehlo", "huggingface"))
    parser.add_argument("--parts", type=arguments.choices("begin", "end"))
    parser.add_argument("--out", type=arguments.output(".csv", ".txt"))
    parser.add_argument("--folder", type=arguments.path)
    parser.add_argument("files", metavar="FILE", nargs="*")

    def run(*argv):
        try:
            return parser.parse(["--model=m", *argv])
        except SystemExit as stopped:
            assert stopped.code == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        return captured.err.removeprefix("esc_jax: ").rstrip()

    return run


def test_values_and_mixed_positions(parse, tmp_path):
    options = parse("a", "--hop_s=2", "b", "--level", "-40", "--count=9", "--kind=stablehlo", "--parts=end,begin")
    assert options.files == ["a", "b"] and options.model == "m"
    assert (options.hop_s, options.level, options.count) == (2.0, -40.0, 9)
    assert options.kind == "stablehlo" and options.parts == ("end", "begin")
    assert parse("--level=off").level is None
    assert parse(f"--out={tmp_path}/o.CSV").out == pathlib.Path(tmp_path, "o.CSV")


def test_names_with_a_dash(parse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("--", "-dash.wav", "--csv=x", "a").files == ["./-dash.wav", "./--csv=x", "a"]
    pathlib.Path("-dash.wav").touch()
    assert parse("-dash.wav") == "there is no option -dash.wav; for the file, write ./-dash.wav"


def test_paths_below_the_home_directory(parse, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    options = parse("--out=~/o.csv", "--folder=~/RR", "--model=~/run")
    assert (options.out, options.folder) == (tmp_path / "o.csv", tmp_path / "RR")
    assert pathlib.Path(options.model) == tmp_path / "run"
    options = parse("--out=~x.csv", "--folder=~no such user")
    assert (str(options.out), str(options.folder)) == ("~x.csv", "~no such user")


@pytest.mark.parametrize("name", ["predict", "embed", "search", "probe", "report", "export", "listen", "demo"])
def test_no_option_takes_a_path_as_it_is(name):
    """pathlib.Path as a type would not replace the ~ in --name=~/file."""
    parser = importlib.import_module(f"esc_jax.cli.{name}")._parser()
    assert not [action.option_strings for action in parser._actions if action.type is pathlib.Path]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--hops=1", "there is no option --hops; did you mean --hop_s?"),
        ("--hop=1", "there is no option --hop; did you mean --hop_s?"),  # no abbreviations
        ("--zzz", "there is no option --zzz; see --help"),
        ("--hop_s", "--hop_s: expected one argument"),
        ("--hop_s=0", "--hop_s: '0' is not a number from 0.01 to 600 seconds"),
        ("--hop_s=nan", "--hop_s: 'nan' is not a number from 0.01 to 600 seconds"),
        ("--hop_s=fast", "--hop_s: 'fast' is not a number from 0.01 to 600 seconds"),
        ("--level=20", "--level: '20' is neither a level from -200 to 0 dB nor 'off'"),
        ("--count=0", "--count: '0' is not a whole number from 1 to 9"),
        ("--count=1.5", "--count: '1.5' is not a whole number from 1 to 9"),
        ("--kind=stablehl", "--kind: 'stablehl' is not one of stablehlo, huggingface; did you mean stablehlo?"),
        ("--parts=begin,ende", "--parts: 'ende' is not one of begin, end; did you mean end?"),
        ("--out=.", "--out: '.' is a folder; give the name of a file"),
        ("--out=a.wav", "--out: 'a.wav' does not end in .csv or .txt"),
        ("--out=no/such/o.csv", "--out: the folder of 'no/such/o.csv' does not exist"),
    ],
)
def test_a_mistake_is_one_sentence(parse, argument, message):
    assert parse(argument) == message


def test_a_parser_without_positional_arguments(capsys):
    with pytest.raises(SystemExit) as stopped:
        arguments.Parser("test", None).parse(["a.wav"])
    assert stopped.value.code == 2 and capsys.readouterr().err == "esc_jax: unexpected argument 'a.wav'\n"


@pytest.mark.parametrize("name", ["predict", "listen", "serve", "demo"])
def test_without_a_model_it_is_the_classifier_of_the_package(name, capsys):
    parser = importlib.import_module(f"esc_jax.cli.{name}")._parser()
    sounds = ["a.wav"] if name == "predict" else []
    assert parser.parse(["--model=runs/a", *sounds]).model == "runs/a"
    assert capsys.readouterr().err == ""
    assert parser.parse(sounds).model == "esc50_small"
    note = "esc_jax: without --model, the classifier is esc50_small (ESC-50, 50 classes, CC BY-NC 3.0)\n"
    assert capsys.readouterr().err == note
