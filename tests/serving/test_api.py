"""`esc-jax serve`: its results, its limits, bad uploads, and many clients that follow its OpenAPI description."""

from concurrent import futures
import contextlib
import importlib.util
import io
import json
import logging
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
import soundfile

from esc_jax.evaluation.calibration import Calibration
from esc_jax.inference.classifier import SoundClassifier
from esc_jax.inference.events import EventOptions, find_events
from esc_jax.inference.output import rows
from esc_jax.tasks import registry as tasks
from esc_jax.training.restore import restore
from tests.serving.openapi_client import Client

if missing := [name for name in ("fastapi", "uvicorn", "prometheus_client") if not importlib.util.find_spec(name)]:
    pytest.skip(f'the API requires {missing[0]}: pip install "esc-jax[serve]"', allow_module_level=True)

import uvicorn

from esc_jax.serving import api, uploads

ROOT = pathlib.Path(__file__).resolve().parents[2]
RATE = 16_000


@pytest.fixture(scope="module")
def classifier(untrained):
    return SoundClassifier(restore(untrained))


@contextlib.contextmanager
def served(classifier, folder, **limits):
    """The address of the API in a thread of this process."""
    folder.mkdir(exist_ok=True)
    app = api.create_app(classifier, "tiny", folder, **limits)
    with uploads.bind("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)


@pytest.fixture(scope="module")
def address(classifier, tmp_path_factory):
    with served(classifier, tmp_path_factory.mktemp("uploads"), max_s=20.0, max_mb=1) as address:
        yield address


def recording(seconds, rate=RATE, seed=0, file_format="WAV"):
    rng = np.random.default_rng(seed)
    content = io.BytesIO()
    soundfile.write(content, 0.2 * rng.uniform(-1, 1, round(seconds * rate)), rate, format=file_format)
    return content.getvalue()


def test_the_result_is_that_of_predict_in_named_numbers(classifier, address, tmp_path):
    content = recording(6.3, 44_100, file_format="FLAC")
    (tmp_path / "a.flac").write_bytes(content)
    timeline = classifier.timeline(tmp_path / "a.flac", hop_s=0.5)
    options = EventOptions(min_confidence=0.2, max_gap_s=1.0)
    status, answer, _ = Client(address)(
        "post", "/classify", content, hop_s=0.5, top_k=2, min_confidence=0.2, max_gap_s=1.0
    )
    assert status == 200 and answer["duration_s"] == 6.3 and answer["note"] == ""
    assert answer["windows"] == rows(timeline, 2)
    events = find_events(timeline, options)
    assert [(one["label"], one["unfamiliar"]) for one in answer["events"]] == [(e.label, e.unfamiliar) for e in events]
    times = [[one[name] for name in ("onset_s", "offset_s", "peak_s")] for one in answer["events"]]
    np.testing.assert_allclose(times, [(e.onset_s, e.offset_s, e.peak_s) for e in events], atol=1e-4)
    assert answer["whole"]["top"][0]["class"] == timeline.whole().labels[0]


def test_silence_and_a_file_that_breaks_off(address):
    content = io.BytesIO()
    soundfile.write(content, np.zeros(3 * RATE), RATE, format="WAV")
    _, answer, _ = Client(address)("post", "/classify", content.getvalue())
    assert answer["whole"] == {"silent": True, "unfamiliar": False, "top": []}
    assert answer["events"] == [] and {one["level_db"] for one in answer["windows"]} == {None}
    _, answer, _ = Client(address)("post", "/classify", recording(4.0)[:-RATE])
    assert re.fullmatch(r"breaks off after 3\.5 of 4\.0 s.*; only what is there was classified", answer["note"])


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "the body is empty: send a recording"),
        (b"no audio", 422, r"not readable as audio \(Format not recognised\)"),
        (b"RIFF" + bytes(100), 422, "not readable as audio .*"),
        (bytes(2 << 20), 413, "the file is larger than 1 MiB"),
        ("long", 413, "the sound is longer than 0:20, the limit of this server"),
        ("loud", 422, "samples of up to 1000, where full scale is 1: .*"),
        ("empty", 422, "holds no samples"),
    ],
)
def test_bad_uploads_are_one_sentence(address, body, status, sentence):
    if body == "long":
        body = recording(21.0)
    if body in ("loud", "empty"):
        content = io.BytesIO()
        samples = np.full(RATE, 1000.0) if body == "loud" else np.zeros(0)
        soundfile.write(content, samples, RATE, format="WAV", subtype="FLOAT")
        body = content.getvalue()
    got, answer, _ = Client(address)("post", "/classify", body)
    assert got == status and list(answer) == ["detail"]
    assert re.fullmatch(sentence, answer["detail"]) and "/" not in answer["detail"].replace("/docs", "")


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("POST", "/classify?hop_s=0", 422, "hop_s=0: input should be greater than or equal to 0.1"),
        ("POST", "/classify?top_k=x", 422, "top_k=x: input should be a valid integer, .*"),
        (
            "POST",
            "/classify?hop_s=2&hopp_s=3",
            422,
            "hopp_s=3: there is no such parameter; expected hop_s, top_k, min_confidence, min_length_s, max_gap_s",
        ),
        ("GET", "/classify", 405, "GET /classify: method not allowed; see /docs"),
        ("GET", "/nothing", 404, "GET /nothing: not found; see /docs"),
    ],
)
def test_other_mistakes_are_one_sentence(address, method, path, status, sentence):
    request = urllib.request.Request(address + path, b"x" if method == "POST" else None, method=method)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == status
    assert re.fullmatch(sentence, json.load(error.value)["detail"])


def test_detected_classes_are_those_of_a_multi_label_model(classifier, address, tmp_path, monkeypatch):
    """The whole has them where the windows have them."""
    _, answer, _ = Client(address)("post", "/classify", recording(2.0))
    assert not any("detected" in one for one in (answer["whole"], *answer["windows"]))
    monkeypatch.setattr(classifier, "task", tasks.get("multi_label"))
    monkeypatch.setattr(classifier, "calibration", Calibration(thresholds=(0.0, 0.0, 1.0)))
    _, answer, _ = Client(address)("post", "/classify", recording(2.0), min_confidence=1.0)
    assert answer["events"] == []
    assert {frozenset(one["detected"]) for one in (answer["whole"], *answer["windows"])} == {
        frozenset(classifier.classes[:2])
    }


@pytest.mark.parametrize("content_type", ["multipart/form-data; boundary=x", "Multipart/Form-Data; boundary=x"])
def test_a_form_is_refused(address, content_type):
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    form = head + recording(1.0) + b"\r\n--x--\r\n"
    request = urllib.request.Request(f"{address}/classify", form, {"Content-Type": content_type})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == 415
    sentence = "the body is a form: send the file itself, for example with curl --data-binary @file"
    assert json.load(error.value) == {"detail": sentence}


def test_model_health_metrics_and_the_page(classifier, address):
    client = Client(address)
    _, model, _ = client("get", "/model")
    assert model["classes"] == list(classifier.classes) and model["max_s"] == 20.0 and model["max_bytes"] == 1 << 20
    before = client("get", "/metrics")[1]
    client("post", "/classify", recording(2.0))
    after = client("get", "/metrics")[1]

    def number(text, name):
        return sum(float(value) for value in re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE))

    for name, grown in (
        ('esc_jax_requests_total{path="/classify",status="200"}', 1),
        ("esc_jax_sound_seconds_total", 2.0),
        ("esc_jax_compute_seconds_count", 1),
    ):
        assert number(after, name) - number(before, name) == grown
    assert client("get", "/health")[1] | {"uptime_s": 0} == {"status": "ok", "waiting": 0, "uptime_s": 0}
    with urllib.request.urlopen(f"{address}/docs") as answer:
        page = answer.read().decode()
    assert all(f"<code>{name}</code>" in page for name in ("/classify", "hop_s", "onset_s", "probability"))
    assert not re.search(r"(src|href)=.?https?://", page)


def test_fifty_clients_get_their_own_results(classifier, tmp_path):
    """Each result is that of the client's own recording; nothing remains on the disk."""
    contents = [recording(0.6 + 0.1 * (seed % 10), seed=seed) for seed in range(50)]
    expected = []
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.wav").write_bytes(content)
        expected.append(rows(classifier.timeline(tmp_path / f"{number}.wav"), 3))
    with served(classifier, tmp_path / "uploads", max_queue=60) as address:
        client = Client(address)
        with futures.ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda content: client("post", "/classify", content, top_k=3), contents))
        assert {status for status, _, _ in answers} == {200}
        assert [answer["windows"] for _, answer, _ in answers] == expected
        assert client("get", "/health")[1]["waiting"] == 0
    assert not list((tmp_path / "uploads").iterdir())


def test_a_full_queue_is_answered_with_retry_after(classifier, tmp_path, monkeypatch):
    go_on = threading.Event()
    real = uploads.classify
    monkeypatch.setattr(uploads, "classify", lambda *arguments: go_on.wait(60) and real(*arguments))
    content = recording(1.0)
    with served(classifier, tmp_path / "uploads", max_queue=2) as address:
        client = Client(address)
        with futures.ThreadPoolExecutor(10) as pool:
            calls = [pool.submit(client, "post", "/classify", content) for _ in range(10)]
            done = set()
            while len(done) < 7:  # one is computed, two wait
                done |= futures.wait(set(calls) - done, 60, futures.FIRST_COMPLETED).done
            refused = [call.result() for call in done]
            go_on.set()
            accepted = [call.result()[0] for call in set(calls) - done]
    assert {status for status, _, _ in refused} == {503} and accepted == [200] * 3
    assert all(int(headers["Retry-After"]) >= 1 for _, _, headers in refused)
    assert refused[0][1]["detail"] == "the queue is full (3 requests): try again in 3 s"


def test_an_upload_that_takes_too_long(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "_UPLOAD_S", 0.2)
    with served(classifier, tmp_path / "uploads") as address:
        import http.client

        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
        connection.putrequest("POST", "/classify")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"RIFF")
        answer = connection.getresponse()
        assert (answer.status, json.load(answer)) == (408, {"detail": "the upload took longer than 0.2 s"})
        connection.close()
    assert not list((tmp_path / "uploads").iterdir())


@pytest.mark.slow
def test_the_command(untrained, environment, tmp_path):
    command = [sys.executable, "-m", "esc_jax", "serve", f"--model={untrained}", "--port=0"]
    variables = environment | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        (address,) = re.match(r"listening on (http://127\.0\.0\.1:\d+), described at \1/docs; ", line).groups()
        assert Client(address)("post", "/classify", recording(1.0))[0] == 200
        port = address.rpartition(":")[2]
        taken = subprocess.run([*command, f"--port={port}"], cwd=ROOT, env=variables, capture_output=True, text=True)
        assert taken.stderr.startswith(f"esc_jax: 127.0.0.1:{port} is in use, or is not an address of this machine")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert not list(tmp_path.glob("esc_jax_serve_*"))


@pytest.mark.extended
def test_a_missing_package_is_one_sentence(environment):
    code = (
        "import sys; sys.modules['fastapi'] = None\nfrom esc_jax.cli import serve; sys.exit(serve.main(['--model=x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, 'esc_jax: the API requires fastapi: pip install "esc-jax[serve]"\n')


def test_a_client_that_leaves_during_an_upload_is_no_error_of_the_server(classifier, tmp_path, caplog):
    with served(classifier, tmp_path / "uploads") as address:
        logger = logging.getLogger("uvicorn.error")
        logger.addHandler(caplog.handler)
        host, port = address.removeprefix("http://").split(":")
        for rest in (b"Content-Length: 1000\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n"):
            with socket.create_connection((host, int(port))) as client:
                client.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\n" + rest)
        assert Client(address)("post", "/classify", recording(1.0))[0] == 200
    logger.removeHandler(caplog.handler)
    assert not caplog.records and not list((tmp_path / "uploads").iterdir())
