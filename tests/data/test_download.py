"""The archive's download, against a server on this machine that behaves badly."""

from concurrent import futures
import http.server
import io
import json
import re
import threading
import zipfile

import numpy as np
import pytest
import soundfile

from esc_jax.data import download
from esc_jax.data.layouts.esc50 import Esc50Layout
from esc_jax.data.rows import DataError
from esc_jax.runtime import transfer

HEADER = "filename,fold,target,category,esc10,src_file,take\n"


def archive(rows=3):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        lines = [f"1-{i}-A-{i}.wav,1,{i},c{i},True,{i},A\n" for i in range(rows)]
        zipped.writestr("ESC-50-master/meta/esc50.csv", HEADER + "".join(lines))
        for i in range(rows):
            zipped.writestr(f"ESC-50-master/audio/1-{i}-A-{i}.wav", bytes(range(256)) * 400)
    return file.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`, breaking off after `most` bytes of each answer; resumes where `resumes`."""

    def __init__(self, content, most=None, resumes=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.most, self.resumes, self.starts = content, most, resumes, []
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}/master.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content, start = self.server.content, 0
        asked = self.headers.get("Range")
        if asked and self.server.resumes:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
        self.server.starts.append(start)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.most])

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(transfer, "_PAUSE_S", 0.0)


@pytest.fixture
def serve():
    servers = []

    def start(*args, **kwargs):
        servers.append(Server(*args, **kwargs))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_fetches_once(tmp_path, serve):
    server = serve(archive())
    path = download.download(tmp_path, server.url, clips=3)
    assert path.read_bytes() == server.content and len(Esc50Layout(path).rows) == 3
    assert download.download(tmp_path, server.url, clips=3) == path
    assert server.starts == [0]
    assert {p.name for p in tmp_path.iterdir()} <= {"ESC-50.zip", "ESC-50.zip.lock"}


def test_two_at_once_fetch_once(tmp_path, serve):
    server = serve(archive())
    with futures.ThreadPoolExecutor() as pool:
        paths = list(pool.map(lambda _: download.download(tmp_path, server.url, clips=3), range(4)))
    assert set(paths) == {tmp_path / "ESC-50.zip"} and paths[0].read_bytes() == server.content
    assert server.starts == [0]


def test_a_broken_connection_is_taken_up_where_it_broke(tmp_path, serve):
    server = serve(archive(), most=100_000)
    path = download.download(tmp_path, server.url, clips=3)
    assert path.read_bytes() == server.content
    assert server.starts == [0, 100_000, 200_000, 300_000]


def test_a_second_call_goes_on_from_the_first(tmp_path, serve):
    server = serve(archive(), most=100_000)
    with pytest.raises(DataError, match="start the same command again to go on"):
        download.download(tmp_path, server.url, clips=3, attempts=2)
    server.most = None
    assert download.download(tmp_path, server.url, clips=3).read_bytes() == server.content
    assert server.starts == [0, 100_000, 200_000]


def test_a_server_that_does_not_resume_starts_over(tmp_path, serve):
    server = serve(archive(), resumes=False)
    (tmp_path / "ESC-50.zip.part").write_bytes(server.content[:1000])
    assert download.download(tmp_path, server.url, clips=3).read_bytes() == server.content


def test_interrupted_after_the_last_byte(tmp_path, serve):
    server = serve(archive())
    (tmp_path / "ESC-50.zip.part").write_bytes(server.content)
    assert download.download(tmp_path, server.url, clips=3).read_bytes() == server.content


def test_what_is_not_the_archive_is_refused_and_removed(tmp_path, serve):
    with pytest.raises(DataError, match="is not the ESC-50 archive"):
        download.download(tmp_path, serve(b"<html>sign in</html>").url, clips=3)
    with pytest.raises(DataError, match="lists 3 clips where ESC-50 has 2000"):
        download.download(tmp_path, serve(archive()).url)
    damaged = bytearray(archive())
    damaged[50_000] ^= 1
    with pytest.raises(DataError, match="is not the ESC-50 archive: .*1-0-A-0.wav in it is damaged"):
        download.download(tmp_path, serve(bytes(damaged)).url, clips=3)
    assert {p.name for p in tmp_path.iterdir()} <= {"ESC-50.zip.lock"}


def test_what_is_longer_than_the_archive_is_downloaded_again(tmp_path, serve):
    (tmp_path / "ESC-50.zip.part").write_bytes(archive() + b"what another process wrote" * 9000)
    server = serve(archive())
    # Not `archive()` again: a zip file contains the time at which it was written.
    assert download.download(tmp_path, server.url, clips=3).read_bytes() == server.content and server.starts == [0]


@pytest.mark.parametrize("url", ["master.zip", "/data/master.zip", "http://[broken/"])
def test_what_is_no_address(tmp_path, url):
    with pytest.raises(DataError, match=f"data.url={re.escape(url)} is no address to download from"):
        download.download(tmp_path, url)


def test_no_server(tmp_path):
    with pytest.raises(DataError, match="could not download ESC-50 from http://127.0.0.1:9/"):
        download.download(tmp_path, "http://127.0.0.1:9/master.zip", attempts=2)


@pytest.mark.slow
def test_one_command_downloads_prepares_trains_and_tests(serve, run, tmp_path):
    """The official archive's shape, 2,000 rows in 50 classes and 5 folds, of clips of a twentieth of a second."""
    rng = np.random.default_rng(0)
    file, rows = io.BytesIO(), []
    with zipfile.ZipFile(file, "w") as zipped:
        for i in range(2000):
            fold, target = i % 5 + 1, i // 40
            name = f"{fold}-{i}-A-{target}.wav"
            rows.append(f"{name},{fold},{target},class{target},{target < 10},{i},A\n")
            clip = io.BytesIO()
            soundfile.write(clip, 0.1 * rng.standard_normal(800), 16_000, "PCM_16", format="WAV")
            zipped.writestr(f"ESC-50-master/audio/{name}", clip.getvalue())
        zipped.writestr("ESC-50-master/meta/esc50.csv", HEADER + "".join(rows))
    server = serve(file.getvalue(), most=1_000_000)
    settings = [f"--config.data.url={server.url}", f"--config.data.cache_dir={tmp_path / 'cache'}"]
    settings += ["--config.data.name=esc50", "--config.train.epochs=1", "--config.train.batch_size=400"]
    settings += [
        "--config.data.clip_s=0.25",
        "--config.eval.batch_size=400",
        "--config.eval.tta=0",
        f"--workdir={tmp_path / 'run'}",
    ]
    run("main", "--config=tests/configs/tiny.py", *settings)
    assert len(server.starts) == -(-len(file.getvalue()) // 1_000_000) and server.starts == sorted(set(server.starts))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["data"]["split"] == "train 1600 clips (folds 1, 2, 3, 4), test 400 clips (fold 5)"
    assert results["folds"][0]["total"] == 400 and len(results["data"]["classes"]) == 50
