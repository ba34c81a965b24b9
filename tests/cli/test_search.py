"""From an archive to a detector on the command line: embed --index, search, probe --index, predict."""

import csv
import json
import pathlib
import shutil
import sqlite3

import numpy as np
import optax
import pytest
import soundfile

from esc_jax import config as configs
from esc_jax.cli import embed, predict, probe, search
from esc_jax.evaluation import escaping
from esc_jax.export import formats
from esc_jax.inference import embeddings, index, labels
from esc_jax.inference.index_store import Store, open_for_writing
from esc_jax.models import model as models
from esc_jax.runtime import xla
from esc_jax.training import checkpoint, state

pytestmark = pytest.mark.usefixtures("no_xla_setup")

RATE = 16_000


def tone(seconds, frequency, seed=0):
    time = np.arange(round(seconds * RATE)) / RATE
    return 0.3 * np.sin(2 * np.pi * frequency * time) + 0.01 * np.random.default_rng(seed).standard_normal(len(time))


def noise(seconds, seed):
    return 0.2 * np.random.default_rng(seed).uniform(-1, 1, round(seconds * RATE))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Six recordings of 6 s: noise, with a tone from 2 to 4 s in four of them; and a copy of the first."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(6):
        wave = noise(6, number)
        if number < 4:
            wave[2 * RATE : 4 * RATE] = tone(2, 800 + 20 * number, number)
        soundfile.write(folder / f"{number}.wav", wave, RATE)
    shutil.copy(folder / "0.wav", folder / "copy.wav")
    return folder


@pytest.fixture(scope="module")
def store(archive, untrained, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "archive.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xla, "initialize", lambda *_, **__: None)
        assert embed.main([f"--model={untrained}", f"--index={path}", str(archive)]) == 0
    return path


def error(command, *arguments):
    """Exit status and message of a command line that is wrong."""
    try:
        return command.main(list(map(str, arguments)))
    except SystemExit as stopped:
        return stopped.code


def test_the_store_has_the_embeddings_of_embed(store, archive, untrained, tmp_path):
    assert embed.main([f"--model={untrained}", f"--out={tmp_path}/o.npz", str(archive)]) == 0
    with np.load(tmp_path / "o.npz") as file:
        expected = {
            (pathlib.Path(name).name, start): x
            for name, start, x in zip(file["filename"], file["start_s"].tolist(), file["embeddings"], strict=True)
        }
    with Store(store) as opened:
        assert opened.counts() == {"recordings": 6, "files": 7, "passages": 36}
        assert (opened.settings.window_s, opened.settings.hop_s, opened.settings.dimension) == (1.0, 1.0, 16)
        for recording in range(1, 7):
            for one in opened.passages_of(recording):
                x = opened.embeddings([one.id])[1][0]
                name = pathlib.Path(opened.path_of(recording)).name
                np.testing.assert_allclose(x, expected[name, one.start_s], rtol=2e-3, atol=2e-3)  # half precision


def test_a_second_call_adds_what_is_new(store, archive, untrained, tmp_path, capsys):
    path, folder = tmp_path / "a.db", tmp_path / "archive"
    shutil.copytree(archive, folder)
    (folder / "bad.wav").write_text("no audio")
    command = [f"--model={untrained}", f"--index={path}", str(folder)]
    assert embed.main(command) == 1
    captured = capsys.readouterr()
    assert captured.out == f"{path}: 6 recordings of 0:36 added, 1 copy, 1 failed; 36 passages of 16 numbers\n"
    assert f"{folder / 'bad.wav'}: not readable as audio" in captured.err
    (folder / "bad.wav").unlink()
    soundfile.write(folder / "late.wav", noise(0.4, 9), RATE)
    soundfile.write(folder / "5.wav", noise(2.0, 10), RATE)
    assert embed.main(command) == 0
    expected = f"{path}: 2 recordings of 0:02.4 added, 6 added before; 33 passages of 16 numbers\n"
    assert capsys.readouterr().out == expected


def test_a_call_that_was_stopped_is_continued(archive, untrained, tmp_path, monkeypatch, capsys):
    """The disk is full after two recordings; the second call adds the others, and nothing twice."""
    path = tmp_path / "a.db"
    command = [f"--model={untrained}", f"--index={path}", str(archive)]
    added = Store.add

    def limited(self, *arguments, **options):
        if self.counts()["recordings"] >= 2:
            (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
            self._connection.execute(f"PRAGMA max_page_count={pages}")
        return added(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", limited)
        assert embed.main([*command, "--hop_s=0.1"]) == 1
    captured = capsys.readouterr().err
    assert "could not be written" in captured and captured.count("\n") == 1
    with Store(path) as opened:
        before = opened.counts()["recordings"]
        assert 2 <= before < 6
    assert embed.main([*command, "--hop_s=0.1"]) == 0
    with Store(path) as opened:
        assert opened.counts() == {"recordings": 6, "files": 7, "passages": 6 * 51}


def test_another_encoder_window_or_writer_is_refused(store, archive, untrained, capsys):
    command = [f"--model={untrained}", f"--index={store}", str(archive)]
    for option, words in (("--window_s=0.5", "window_s (1, not 0.5)"), ("--hop_s=0.5", "hop_s (1, not 0.5)")):
        assert error(embed, *command, option) == 2
        captured = capsys.readouterr().err
        assert words in captured and captured.count("\n") == 1
    with Store(store) as opened:
        settings = opened.settings
    with open_for_writing(store, settings):
        assert error(embed, *command) == 1
    assert "is being written by another process" in capsys.readouterr().err


def test_search_finds_what_sounds_alike(store, archive, tmp_path, capsys):
    query = tmp_path / "query.wav"
    soundfile.write(query, np.concatenate([noise(3, 77), tone(1, 840, 5)]), RATE)
    outputs = [f"--csv={tmp_path}/o.csv", f"--json={tmp_path}/o.json", f"--page={tmp_path}/o.html"]
    assert search.main([str(store), str(query), "--start_s=3", "--top=8", *outputs, "--labels=tone,other"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("8 of 36 passages\n    1  ")
    with open(tmp_path / "o.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    places = {(pathlib.Path(row["recording"]).name, float(row["start_s"])) for row in rows}
    assert {(f"{n}.wav", s) for n in (1, 2, 3) for s in (2.0, 3.0)} <= places and len(places) == 8
    similarities = [float(row["similarity"]) for row in rows]
    assert similarities == sorted(similarities, reverse=True) and similarities[0] <= 1 + 1e-6
    document = json.loads((tmp_path / "o.json").read_text())
    assert [one["similarity"] for one in document["matches"]] == pytest.approx(similarities)
    assert (document["start_s"], document["end_s"], document["passages"]) == (3.0, 4.0, 36)
    assert (tmp_path / "o.html").read_text().count("<audio") == 9


def test_the_similarity_is_that_of_the_definition(store, archive, untrained, capsys):
    """A query that is in the store does not find itself."""
    query = archive / "1.wav"
    assert search.main([str(store), str(query), "--start_s=2", "--end_s=3", "--top=36"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 35 and not any("0:02.0 –" in line and str(query) in line for line in lines)
    model = embeddings.load_encoder(str(untrained))
    with Store(store) as opened:
        q = index.embed_query(opened, model, str(query), 2.0, 3.0).vectors
        x = np.concatenate([x for _, x in opened.blocks()])
    cosine = sorted((x @ q[0] / np.linalg.norm(x, axis=1) / np.linalg.norm(q[0])).tolist(), reverse=True)[1:]
    assert [float(line.split()[1]) for line in lines] == pytest.approx(cosine, abs=1e-3)


@pytest.mark.slow
def test_from_labels_to_a_detector(store, archive, tmp_path, capsys):
    marked = tmp_path / "labels.csv"
    rows = [(archive / f"{n}.wav", 2.0, 4.0, "tone") for n in range(3)]
    rows += [(archive / f"{n}.wav", 0.0, 1.0, "=noise") for n in (1, 4, 5)] + [(archive / "1.wav", 5.0, 6.0, "")]
    labels.write_labels(marked, [labels.Label(str(path), start, end, name) for path, start, end, name in rows])
    run, table, page = tmp_path / "run", tmp_path / "next.csv", tmp_path / "next.html"
    command = [f"--index={store}", f"--labels={marked}", f"--out={run}", f"--csv={table}", f"--page={page}", "--next=5"]
    assert probe.main(command) == 0
    printed = capsys.readouterr().out
    assert "9 labelled passages: =noise 3, tone 6\naccuracy 100.0 % (recordings held out in turn; L2 " in printed
    with open(table, newline="") as file:
        suggested = list(csv.DictReader(file))
    known = {(str(path), start) for path, start, _, name in rows if name}
    assert len(suggested) == 5 and not {(row["recording"], float(row["start_s"])) for row in suggested} & known
    margins = [float(row["margin"]) for row in suggested]
    assert margins == sorted(margins) and {suggested[0]["first"], suggested[0]["second"]} == {"'=noise", "tone"}
    assert page.read_text().count("<audio") == 5
    assert labels.read_labels(table) == []  # nothing is labelled there yet
    assert len(labels.read_labels(run / "labels.csv")) == 6

    query = tmp_path / "new.wav"
    soundfile.write(query, np.concatenate([tone(2, 830, 8), noise(2, 88)]), RATE)
    assert predict.main([f"--model={run}", f"--csv={tmp_path}/p.csv", "--top_k=1", "--hop_s=1", str(query)]) == 0
    with open(tmp_path / "p.csv", newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["tone", "tone", "'=noise", "'=noise"]
    assert probe.main(command) == 0  # the classifier is replaced
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    assert error(probe, *command[:2], f"--out={tmp_path}/other") == 2
    assert "has other files and no labels.csv" in capsys.readouterr().err


class Killed(BaseException):
    """The end of a process, which no function handles."""


@pytest.mark.slow
def test_a_killed_probe_of_a_store(store, archive, tmp_path, monkeypatch):
    """The next call replaces what it has written, and an earlier table stays until the new one is complete."""

    def killed(*_, **__):
        raise Killed

    marked, run, table = tmp_path / "labels.csv", tmp_path / "run", tmp_path / "next.csv"
    rows = [(0, 2.0, "tone"), (1, 2.0, "tone"), (4, 0.0, "noise"), (5, 0.0, "noise")]
    labels.write_labels(marked, [labels.Label(str(archive / f"{n}.wav"), s, s + 2, name) for n, s, name in rows])
    command = [f"--index={store}", f"--labels={marked}", f"--out={run}", f"--csv={table}"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "close", killed)
        with pytest.raises(Killed):
            probe.main(command)
    assert (run / "checkpoints").is_dir() and not table.exists()
    assert probe.main(command) == 0
    before = table.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(escaping, "escape_cell", killed)
        with pytest.raises(Killed):
            probe.main(command)
    assert table.read_text() == before


@pytest.mark.slow
def test_a_packed_classifier_is_the_encoder_of_a_store(archive, untrained, tmp_path, capsys):
    """It states its sample rate, as a run does."""
    packed, store, marked = tmp_path / "packed", tmp_path / "archive.db", tmp_path / "labels.csv"
    formats.export(untrained, "safetensors", packed)
    assert embed.main([f"--model={packed}", f"--index={store}", str(archive)]) == 0
    assert search.main([str(store), str(archive / "1.wav"), "--start_s=2", "--end_s=3"]) == 0
    assert "10 of 36 passages" in capsys.readouterr().out
    rows = [(0, 2.0, "tone"), (1, 2.0, "tone"), (4, 0.0, "noise"), (5, 0.0, "noise")]
    labels.write_labels(marked, [labels.Label(str(archive / f"{n}.wav"), s, s + 2, name) for n, s, name in rows])
    assert probe.main([f"--index={store}", f"--labels={marked}", f"--out={tmp_path}/run"]) == 0
    assert predict.main([f"--model={tmp_path}/run", str(archive / "2.wav")]) == 0
    assert error(embed, f"--model={packed}", f"--index={store}", "--sample_rate=8000", archive) == 2


@pytest.fixture(scope="module")
def pooling(tmp_path_factory):
    """Workdir of a run with attention pooling whose weights are random."""
    config = configs.load("tests/configs/tiny.py")
    config.task = "single_label"
    config.model.head.pooling = "attention"
    model = models.create(config, ("rain", "sea_waves", "dog"))
    model.variables["params"]["head"]["attention"]["score"]["kernel"] += 5.0 * np.random.default_rng(0).standard_normal(
        (128, 1)
    ).astype(np.float32)
    folder = tmp_path_factory.mktemp("pooling")
    checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
    meta = {"config": config.to_dict(), "classes": list(model.classes), "sample_rate": model.sample_rate}
    checkpoints.save(state.create(model.variables, optax.sgd(0.1), ema=False), meta)
    checkpoints.close()
    return folder


@pytest.mark.slow
def test_the_pooling_of_an_encoder_is_that_of_a_classifier_of_its_store(archive, pooling, tmp_path):
    """Embeddings of the classifier are those that its head was fitted to."""
    store, marked, run = tmp_path / "archive.db", tmp_path / "labels.csv", tmp_path / "run"
    assert embed.main([f"--model={pooling}", f"--index={store}", str(archive)]) == 0
    rows = [(0, 2.0, "tone"), (1, 2.0, "tone"), (4, 0.0, "noise"), (5, 0.0, "noise")]
    labels.write_labels(marked, [labels.Label(str(archive / f"{n}.wav"), s, s + 2, name) for n, s, name in rows])
    assert probe.main([f"--index={store}", f"--labels={marked}", f"--out={run}"]) == 0
    of_encoder, of_run = tmp_path / "encoder.npz", tmp_path / "run.npz"
    for model, out in ((pooling, of_encoder), (run, of_run)):
        assert embed.main([f"--model={model}", f"--out={out}", str(archive / "2.wav")]) == 0
    with np.load(of_encoder) as expected, np.load(of_run) as file:
        np.testing.assert_array_equal(file["embeddings"], expected["embeddings"])
    assert predict.main([f"--model={run}", str(archive / "2.wav")]) == 0


MISTAKES = [
    (search, ("{tmp}/none.db", "q.wav"), 2, "none.db does not exist: create it with esc-jax embed"),
    (search, ("{store}", "{tmp}/none.wav"), 1, "none.wav: no such file"),
    (search, ("{store}", "{archive}/1.wav", "--start_s=9"), 1, "ends after 6.0 s, before the part at 9.0 s"),
    (search, ("{store}", "{archive}/1.wav", "--start_s=3", "--end_s=2"), 2, "--end_s=2 is not after --start_s=3"),
    (search, ("{store}", "q.wav", "--labels=a"), 2, "--labels needs --page"),
    (embed, ("--model=x", "--index=o.db", "--out=o.npz", "a.wav"), 2, "give either --out=OUT.npz or --index=DB"),
    (embed, ("--model=x", "a.wav"), 2, "give either --out=OUT.npz or --index=DB"),
    (embed, ("--model=x", "--out=o.npz", "--hop_s=1", "a.wav"), 2, "--hop_s needs --index=DB"),
    (embed, ("--model=x", "--index=o.db", "--data_dir=d"), 2, "--index is for recordings"),
    (probe, ("--index={store}",), 2, "--index needs --labels"),
    (probe, ("x.npz", "--index={store}"), 2, "give either EMBEDDINGS.npz, or --index=DB"),
    (probe, ("x.npz", "--out=o"), 2, "--out needs --index=DB"),
    (probe, ("--index={store}", "--labels={tmp}/none.csv"), 1, "No such file or directory: {tmp}/none.csv"),
]


@pytest.mark.parametrize(("command", "arguments", "status", "message"), MISTAKES)
def test_a_mistake_is_one_sentence(command, arguments, status, message, store, archive, tmp_path, capsys):
    places = {"tmp": tmp_path, "store": store, "archive": archive}
    assert error(command, *(argument.format(**places) for argument in arguments)) == status
    captured = capsys.readouterr().err
    assert message.format(**places) in captured and captured.count("\n") == 1


def test_an_encoder_that_has_changed_is_refused(store, archive, untrained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(embeddings, "encoder_fingerprint", lambda model: "other")
    assert error(search, store, archive / "1.wav") == 2
    captured = capsys.readouterr().err
    assert f"{store} has passages of another encoder" in captured and captured.count("\n") == 1


def test_the_store_for_perch_hoplite(store, archive, untrained, tmp_path, capsys):
    pytest.importorskip("usearch")
    folder = tmp_path / "hoplite"
    command = [f"--model={untrained}", f"--index={store}", f"--hoplite={folder}", str(archive)]
    assert embed.main(command) == 0
    assert f"{folder}: a database of perch-hoplite" in capsys.readouterr().out
    with sqlite3.connect(folder / "hoplite.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM windows").fetchone() == (36,)
    assert embed.main(command) == 2
    assert f"--hoplite={folder} exists and is not empty: give a new folder" in capsys.readouterr().err
