"""Weights by name: downloads from a server on this machine, checked hashes, and tags of a published classifier."""

import dataclasses
import hashlib
import http.server
import io
import threading
import zipfile

import numpy as np
import pytest

import esc_jax
from esc_jax.cli import weights as command
from esc_jax.pretrained import catalog, fetch, merge
from esc_jax.pretrained.published import PretrainedError
from esc_jax.runtime import transfer

CONTENT = bytes(range(256)) * 800


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the server's content from the requested byte on, at most `most` bytes at a time."""

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.server.starts.append(start)
        size = len(self.server.content)
        self.send_response(416 if start >= size else 206 if start else 200)
        if start >= size:
            self.send_header("Content-Range", f"bytes */{size}")
        elif self.server.announced:
            self.send_header("Content-Length", str(size - start))
        self.end_headers()
        self.wfile.write(self.server.content[start:][: self.server.most])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server with one file, which the catalog has twice: with its hash, and without."""
    monkeypatch.setenv("ESC_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(fetch.OFFLINE, raising=False)
    monkeypatch.setattr(transfer, "_PAUSE_S", 0.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.most, server.starts, server.announced = CONTENT, None, [], True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        sha256 = hashlib.sha256(CONTENT).hexdigest()
        known = dataclasses.replace(catalog.CATALOG["mn04_as"], name="known", url=f"{url}/known.pt", sha256=sha256)
        unknown = dataclasses.replace(known, name="unknown", url=f"{url}/unknown%20file.pt", sha256="")
        monkeypatch.setattr(catalog, "CATALOG", {"known": known, "unknown": unknown})
        yield server
        server.shutdown()


def path_of(name):
    return fetch.folder() / catalog.CATALOG[name].filename


def test_a_file_is_downloaded_once_and_kept(server):
    for _ in range(2):
        assert fetch.resolve("known") == str(path_of("known"))
    assert path_of("known").read_bytes() == CONTENT and server.starts == [0]
    assert fetch.resolve("some/where.pt") == "some/where.pt"  # no name of the catalog
    assert path_of("unknown").name == "unknown file.pt"


def test_an_interrupted_download_goes_on(server):
    server.most = 60_000
    assert fetch.download("unknown") == str(path_of("unknown"))
    assert path_of("unknown").read_bytes() == CONTENT and server.starts == [0, 60_000, 120_000, 180_000]


@pytest.mark.parametrize("name", ["known", "unknown"])
def test_a_damaged_file_in_the_cache_is_downloaded_again(server, name):
    fetch.resolve(name)
    path_of(name).write_bytes(CONTENT[:-1] + b"x")
    fetch.resolve(name)
    assert path_of(name).read_bytes() == CONTENT and server.starts == [0, 0]


@pytest.mark.parametrize("name", ["known", "unknown"])
def test_a_file_with_another_hash_is_refused(server, name):
    """That of the catalog, or that of the first download."""
    fetch.resolve(name)
    path_of(name).unlink()
    server.content = CONTENT[::-1]
    with pytest.raises(fetch.DownloadError, match="is damaged or has been replaced"):
        fetch.resolve(name)
    assert not path_of(name).exists() and not path_of(name).with_name(f"{path_of(name).name}.part").exists()


@pytest.mark.parametrize("extra", [0, 1, 1000])
def test_a_part_that_is_whole_or_too_long(server, extra):
    """A whole one is kept; what is longer than the file is of another file."""
    part = path_of("known").with_name(f"{path_of('known').name}.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT + bytes(extra))
    fetch.resolve("known")
    assert path_of("known").read_bytes() == CONTENT
    assert server.starts == ([len(CONTENT)] if not extra else [len(CONTENT) + extra, 0])


def test_a_first_download_that_is_cut_where_no_length_is_known(server):
    """Weights of torch are zip files, which show it."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.pkl", CONTENT)
    server.content, server.announced, server.most = archive.getvalue(), False, 100_000
    with pytest.raises(fetch.DownloadError, match="is incomplete: run the same command again"):
        fetch.resolve("unknown")
    assert not path_of("unknown").exists()
    server.most = None
    fetch.resolve("unknown")
    assert path_of("unknown").read_bytes() == server.content


@pytest.mark.parametrize("record", ["", "abc", "0" * 64 + " 00000000", None])
def test_a_damaged_record_of_the_hash_does_not_refuse_a_good_file(server, record):
    fetch.resolve("unknown")
    path = path_of("unknown").with_name(f"{path_of('unknown').name}.sha256")
    good = path.read_text()
    path.write_text(record) if record is not None else path.unlink()
    fetch.resolve("unknown")
    assert server.starts == [0] and path.read_text() == good


def test_a_damaged_file_is_kept_until_it_can_be_replaced(server, monkeypatch):
    fetch.resolve("known")
    path_of("known").write_bytes(b"x")
    monkeypatch.setenv(fetch.OFFLINE, "1")
    with pytest.raises(fetch.DownloadError, match="nothing is downloaded offline"):
        fetch.resolve("known")
    assert path_of("known").read_bytes() == b"x"


def test_without_a_network_there_is_a_sentence(server, monkeypatch, capsys):
    monkeypatch.setenv(fetch.OFFLINE, "1")
    with pytest.raises(fetch.DownloadError, match="nothing is downloaded offline: download http://127"):
        fetch.resolve("known")
    monkeypatch.delenv(fetch.OFFLINE)
    server.shutdown()
    server.server_close()
    assert command.main(["get", "known"]) == 1
    assert "could not be downloaded" in capsys.readouterr().err


def test_the_command_lists_and_downloads(server, capsys):
    assert command.main(["get", "known"]) == 0
    assert capsys.readouterr().out == f"known: {path_of('known')}\n"
    assert command.main(["list"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "name" and lines[0].split()[-2] == "yes" and lines[1].split()[-2] == "no"
    with pytest.raises(SystemExit) as stopped:
        command.main(["get", "knwon"])
    assert stopped.value.code == 2 and "did you mean known?" in capsys.readouterr().err


def test_weights_of_another_architecture_are_refused():
    with pytest.raises(PretrainedError, match="model.pretrained=mn04_as is for model.name=efficientat, not hubert"):
        merge.read("hubert", "mn04_as")


def test_the_table_is_complete():
    for name, weights in catalog.CATALOG.items():
        assert weights.name == name and weights.licence
        assert [bool(weights.url), bool(weights.hub_id), bool(weights.included)].count(True) == 1
        assert not weights.sha256 or len(weights.sha256) == 64
    names = [weights.filename for weights in catalog.CATALOG.values() if weights.url]
    assert len(set(names)) == len(names) and not any(set(name) & set("?&%=") for name in names)
    assert catalog.CATALOG["beats_iter3_plus_ft1"].filename == "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt1.pt"


def test_published_tags_equal_those_of_the_published_code(shared):
    """Probabilities of 527 classes on four clips; both compute in float32."""
    pytest.importorskip("torch")
    reference = np.load(shared / "reference/efficientat/mn04_as_reference.npz")
    classifier = esc_jax.load_classifier(shared / "weights/efficientat/mn04_as_mAP_432.pt")
    assert classifier.task.name == "multi_label" and len(classifier.classes) == 527
    for waveform, logits in zip(reference["waveform_32k"], reference["logits"], strict=True):
        prediction = classifier(waveform, 32_000)
        np.testing.assert_allclose(prediction.vector, 1 / (1 + np.exp(-logits.astype(np.float64))), atol=1e-4)
        assert classifier.classes[int(logits.argmax())] == prediction.labels[0]


def test_an_encoder_without_classes_is_refused(shared):
    pytest.importorskip("torch")
    with pytest.raises(PretrainedError, match="has no classes of its own"):
        esc_jax.load_classifier(shared / "reference/beats/tiny_beats_pretrained.pt")
