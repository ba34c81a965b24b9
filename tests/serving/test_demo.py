"""The web page in a real browser, and what it says of every kind of sound."""

import contextlib
import json
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import soundfile

from esc_jax import build, demo
from esc_jax.cli import demo
from esc_jax.evaluation.calibration import Calibration
from esc_jax.inference.classifier import SoundClassifier
from esc_jax.serving import demo

pytest.importorskip("gradio", reason="the demo's own requirements: pip install -r requirements-demo.txt")
ROOT = pathlib.Path(__file__).resolve().parents[1]
RATE = 16_000


@pytest.fixture(scope="module")
def classifier(untrained):
    return SoundClassifier(build.restore(untrained))


def noise(seconds, seed=0):
    return 0.2 * np.random.default_rng(seed).uniform(-1, 1, round(seconds * RATE))


def test_what_is_said_of_a_sound(classifier, tmp_path):
    path = str(tmp_path / "a.wav")
    soundfile.write(path, np.concatenate([noise(2.0), np.zeros(2 * RATE)]), RATE)
    shares = []
    found = demo.listen(classifier, path, 60.0, shares.append)
    timeline = classifier.timeline(path)
    expected = timeline.mean().top(3)
    assert list(found.top.items()) == [(name.replace("_", " "), share) for name, share in expected]
    assert found.sentence == f"**{next(iter(found.top))}**, on average over 0:04.0."
    assert [row[0] for row in found.rows] == ["0:00.0", "0:02.0"] and found.rows[-1][2:] == ["silence", ""]
    assert len(found.picture.axes) == 3 and shares[-1] == 1.0


def test_silence_strangers_and_what_cannot_be_used(classifier, tmp_path, monkeypatch):
    path = str(tmp_path / "a.wav")
    soundfile.write(path, np.zeros(RATE), RATE)
    found = demo.listen(classifier, path, 60.0)
    assert found.sentence == "**Silence**, 0:01.0 of it." and found.top is None
    soundfile.write(path, noise(3.0), RATE)
    assert demo.listen(classifier, path, 2.0).sentence == (
        "**This can't be used:** the sound is longer than the 0:02 that this page takes."
    )
    monkeypatch.setattr(classifier, "calibration", Calibration(energy=1e9))
    assert demo.listen(classifier, path, 60.0).sentence.startswith("**Unlike anything in training**")
    (tmp_path / "b.wav").write_text("no audio")
    found = demo.listen(classifier, str(tmp_path / "b.wav"), 60.0)
    assert found == demo.Heard("**This can't be used:** not readable as audio (Format not recognised).")


def test_examples_are_test_clips_of_classes_that_the_model_has(classifier, tmp_path):
    """Whatever the files are called; some classes of the data set are none of the model's."""
    (tmp_path / "meta").mkdir()
    (tmp_path / "audio").mkdir()
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for target, name in enumerate(["rain", "cow", "sea_waves", "dog"]):
        for fold in (1, 2):
            (tmp_path / f"audio/{name} {fold}.wav").write_text(f"{name} {fold}")
            lines.append(f"{name} {fold}.wav,{fold},{target},{name},False,{name},A")
    (tmp_path / "meta/esc50.csv").write_text("\n".join(lines))
    found = demo.examples(classifier, {"dir": str(tmp_path), "test_fold": 2}, None)
    assert found == [(f"{name} 2.wav", f"{name} 2".encode()) for name in ("dog", "rain", "sea_waves")]
    for elsewhere in ("", str(tmp_path / "gone")):
        assert demo.examples(classifier, {"dir": elsewhere, "test_fold": 2}, None) == []
    assert len(demo.examples(classifier, {"dir": "", "test_fold": 2}, str(tmp_path))) == demo.EXAMPLES


def test_two_may_upload_the_same_sound(classifier, tmp_path):
    """Gradio keeps equal uploads in one file, which the first to be heard must leave to the second."""
    soundfile.write(tmp_path / "a.wav", noise(2.0), RATE)
    made = demo.page(classifier, [("b.wav", b"")], 60.0, tmp_path)
    (hear,) = [step.fn for step in made.fns.values() if step.api_name == "hear"]
    first, second = (hear(str(tmp_path / "a.wav"), lambda share: None)[0] for _ in range(2))
    assert first == second and "on average" in first


@contextlib.contextmanager
def served(environment, *arguments):
    """The page on a free port, in a process of its own: its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "esc_jax.demo", f"--port={port}", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/config") as answer:
                json.load(answer)
                break
            assert process.poll() is None, process.stdout.read().decode()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def waited(browser, script, wanted, *arguments):
    """The value of a script once `wanted` of it is true."""
    for _ in range(300):
        if wanted(value := browser.run(script, *arguments)):
            return value
        time.sleep(0.2)
    raise AssertionError(f"still {value!r}")


SENTENCE = "return document.querySelector('#sentence strong')?.parentElement.innerText || ''"


def test_the_page_in_a_browser(browser, untrained, classifier, environment, tmp_path):
    soundfile.write(tmp_path / "big.wav", noise(70.0), RATE)
    soundfile.write(tmp_path / "long.wav", noise(9.0), RATE)
    soundfile.write(tmp_path / "sound.wav", noise(3.0, seed=1), RATE)
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "offered").mkdir()
    soundfile.write(tmp_path / "offered/one.wav", np.zeros(RATE), RATE)
    kept = tmp_path / "temporary"
    kept.mkdir()
    arguments = (f"--checkpoint={untrained}", f"--examples={tmp_path}/offered", "--max_minutes=0.1", "--max_mb=1")
    with served(environment | {"TMPDIR": str(kept)}, *arguments) as address:
        browser.call("/url", {"url": address})
        files = "return document.querySelectorAll('input[type=file]').length"

        def choose(name):
            waited(browser, files, bool)
            field = browser.find("input[type=file]")
            browser.call(f"/element/{field}/value", {"text": str(tmp_path / name)})

        def upload(name):
            choose(name)
            return waited(browser, SENTENCE, bool)

        def clear():
            browser.run("document.querySelector('button[aria-label=Clear]').click()")
            waited(browser, SENTENCE, lambda words: not words)

        expected = classifier.timeline(tmp_path / "sound.wav").mean().labels[0].replace("_", " ")
        choose("big.wav")
        shown = "return document.body.innerText"
        waited(browser, shown, lambda words: "exceed the maximum allowed size of 1.0 Mb" in words)
        assert upload("sound.wav") == f"{expected}, on average over 0:03.0."
        words = waited(browser, shown, lambda words: f"\n{expected}\n" in words)
        assert re.search(rf"{expected}\s+\d+%", words)
        waited(browser, "return [...document.images].some(i => i.naturalWidth > 1000)", bool)  # the timeline
        clear()
        assert upload("text.wav") == "This can't be used: not readable as audio (Format not recognised)."
        clear()
        assert upload("long.wav") == "This can't be used: the sound is longer than the 0:06 that this page takes."
        for _ in range(2):  # an example is there every time
            clear()
            browser.run("[...document.querySelectorAll('button')].find(b => b.innerText.includes('one.wav')).click()")
            assert waited(browser, SENTENCE, bool) == "Silence, 0:01.0 of it."
        foreign = "r => !r.name.startsWith(arguments[0]) && !r.name.startsWith('data:') && !r.name.startsWith('blob:')"
        assert browser.run(f"return performance.getEntriesByType('resource').filter({foreign}).length", address) == 0
        browser.call("/url", {"url": "about:blank"})  # the page keeps drawing
    assert not list(kept.rglob("*.wav"))  # the uploads go with the server


def test_a_proxy_does_not_stand_between_and_sigterm_takes_everything(untrained, environment, tmp_path):
    proxy = {"http_proxy": "http://127.0.0.1:9", "TMPDIR": str(tmp_path)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "esc_jax.demo", f"--checkpoint={untrained}", f"--port={port}"]
    with subprocess.Popen(command, cwd=ROOT, env=environment | proxy, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("listening on http://127.0.0.1:")
        assert list(tmp_path.glob("esc_jax_demo_*"))
        process.terminate()
        assert process.wait(60) == 143
    assert not list(tmp_path.glob("esc_jax_demo_*"))


def test_mistakes_are_sentences(run, untrained, tmp_path, environment):
    assert run("demo", "--checkpoint=nowhere", check=1).stderr.endswith("nowhere: no such folder\n")
    done = run("demo", f"--checkpoint={untrained}", f"--examples={tmp_path}", check=1)
    assert done.stderr == f"esc_jax: --examples={tmp_path}: holds no recordings\n"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("demo", f"--checkpoint={untrained}", f"--port={port}", check=1)
    assert (
        done.stderr
        == f"esc_jax: 127.0.0.1:{port} is not free, or not of this machine: choose another --port or --host\n"
    )
    code = "import sys; sys.modules['gradio'] = None; from esc_jax import demo; sys.exit(demo.main(['--checkpoint=x']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "requirements-demo.txt" in done.stderr
