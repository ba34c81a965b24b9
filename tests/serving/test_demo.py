"""The web page: its results for every kind of sound, its examples, and the page in a browser."""

import contextlib
import importlib.util
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

from esc_jax.evaluation.calibration import Calibration
from esc_jax.evaluation.novelty import Novelty
from esc_jax.inference.classifier import SoundClassifier
from esc_jax.inference.output import rows
from esc_jax.serving import demo, schema
from esc_jax.tasks import registry as tasks
from esc_jax.training.restore import restore

if importlib.util.find_spec("gradio") is None:
    pytest.skip('the demo requires Gradio: pip install "esc-jax[demo]"', allow_module_level=True)
ROOT = pathlib.Path(__file__).resolve().parents[2]
RATE = 16_000


@pytest.fixture(scope="module")
def classifier(untrained):
    return SoundClassifier(restore(untrained))


def noise(seconds, seed=0):
    return 0.2 * np.random.default_rng(seed).uniform(-1, 1, round(seconds * RATE))


def test_the_result_of_a_sound(classifier, tmp_path):
    path = str(tmp_path / "a.wav")
    soundfile.write(path, np.concatenate([noise(2.0), np.zeros(2 * RATE)]), RATE)
    fractions = []
    result = demo.classify_upload(classifier, path, 60.0, fractions.append)
    expected = classifier.timeline(path).mean().top(3)
    assert list(result.top.items()) == [(name.replace("_", " "), probability) for name, probability in expected]
    assert result.sentence == f"**{next(iter(result.top))}**, on average over 0:04.0."
    assert [row[0] for row in result.rows] == ["0:00.0", "0:02.0"] and result.rows[-1][2:] == ["silence", ""]
    assert len(result.picture.axes) == 3 and fractions[-1] == 1.0


def test_silence_unfamiliar_sounds_and_unusable_files(classifier, tmp_path, monkeypatch):
    path = str(tmp_path / "a.wav")
    soundfile.write(path, np.zeros(RATE), RATE)
    result = demo.classify_upload(classifier, path, 60.0)
    assert result.sentence == "**Silence**, 0:01.0 of it." and result.top is None
    soundfile.write(path, noise(3.0), RATE)
    assert demo.classify_upload(classifier, path, 2.0).sentence == (
        "**This can't be used:** the sound is longer than 0:02, the limit of this server."
    )
    width = classifier.model.variables["params"]["head"]["classifier"]["kernel"].shape[0]
    means = np.zeros((1, width), np.float32)
    monkeypatch.setattr(classifier, "novelty", Novelty(means[0], means, threshold=1.0))
    result = demo.classify_upload(classifier, path, 60.0)
    assert result.sentence.startswith("**Unlike any class**")
    assert all(row[2].endswith(" (unlike any class)") for row in result.rows)
    (tmp_path / "b.wav").write_text("no audio")
    result = demo.classify_upload(classifier, str(tmp_path / "b.wav"), 60.0)
    assert result == demo.PageResult("**This can't be used:** not readable as audio (Format not recognised).")


def test_the_words_of_a_multi_label_model(classifier, tmp_path, monkeypatch):
    path = str(tmp_path / "a.wav")
    soundfile.write(path, noise(3.0), RATE)
    monkeypatch.setattr(classifier, "task", tasks.get("multi_label"))
    shares = dict(classifier.timeline(path).whole().top(3))
    monkeypatch.setattr(classifier, "calibration", Calibration(thresholds=(0.0, 0.0, 1.0)))  # rain and sea waves
    result = demo.classify_upload(classifier, path, 60.0)
    order = sorted(("rain", "sea_waves"), key=lambda name: -shares[name])
    names = [name.replace("_", " ") for name in order]
    assert result.sentence == f"**{', '.join(names)}**, detected in 0:03.0."
    assert list(result.top) == names and set(result.top.values()) == {shares["rain"], shares["sea_waves"]}
    assert set(result.rows[0][2].split(", ")) == {"rain", "sea waves"} and result.rows[0][3].count(", ") == 1
    monkeypatch.setattr(classifier, "calibration", Calibration(thresholds=(1.0, 0.9999999, 1.0)))
    result = demo.classify_upload(classifier, path, 60.0)
    assert result.sentence.startswith("**No class above its threshold** in 0:03.0. Closest: sea waves (")
    assert result.top is None and result.rows[0][2:] == ["no class above its threshold", ""]
    page = demo.build_page(classifier, [], 60.0, tmp_path)
    assert "Detected" in [block.label for block in page.blocks.values() if getattr(block, "label", None)]


def test_examples_are_test_clips_of_classes_that_the_model_has(classifier, tmp_path):
    """For any file names, and for a data set with classes that the model does not have."""
    (tmp_path / "meta").mkdir()
    (tmp_path / "audio").mkdir()
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for target, name in enumerate(["rain", "cow", "sea_waves", "dog"]):
        for fold in (1, 2):
            (tmp_path / f"audio/{name} {fold}.wav").write_text(f"{name} {fold}")
            lines.append(f"{name} {fold}.wav,{fold},{target},{name},False,{name},A")
    (tmp_path / "meta/esc50.csv").write_text("\n".join(lines))
    examples = demo.find_examples(classifier, {"dir": str(tmp_path), "test_fold": 2})
    assert examples == [
        (f"{name} 2.wav", f"{name} 2".encode(), name.replace("_", " ")) for name in ("dog", "rain", "sea_waves")
    ]
    for elsewhere in ("", str(tmp_path / "gone")):
        assert demo.find_examples(classifier, {"dir": elsewhere, "test_fold": 2}) == []
    assert len(demo.find_examples(classifier, {"dir": "", "test_fold": 2}, str(tmp_path))) == demo.MAX_EXAMPLES


def test_programs_get_named_numbers(classifier, tmp_path):
    """The API of the page has one output, with the windows and events of the API of `esc-jax serve`."""
    path = str(tmp_path / "a.wav")
    soundfile.write(path, noise(3.0), RATE)
    result = demo.classify_document(classifier, path, 60.0)
    timeline = classifier.timeline(path)
    assert result["windows"] == rows(timeline, demo.uploads.TOP_K) and result["duration_s"] == 3.0
    fields = set(schema.Event.model_fields)
    assert fields == {"onset_s", "offset_s", "label", "score", "peak_s", "unfamiliar"}
    assert [set(event) for event in result["events"]] == [fields] * len(result["events"])
    assert demo.classify_document(classifier, path, 2.0) == {
        "error": "the sound is longer than 0:02, the limit of this server"
    }
    endpoints = demo.build_page(classifier, [], 60.0, tmp_path).get_api_info()["named_endpoints"]
    assert list(endpoints) == ["/classify"]
    assert [one["label"] for one in endpoints["/classify"]["returns"]] == ["result"]
    assert [one["parameter_name"] for one in endpoints["/classify"]["parameters"]] == ["sound"]


@pytest.mark.slow
def test_equal_uploads_share_a_file(classifier, tmp_path):
    """Gradio stores equal uploads in one file, which must remain when the first of them is classified."""
    soundfile.write(tmp_path / "a.wav", noise(2.0), RATE)
    page = demo.build_page(classifier, [demo.Example("b.wav", b"", "b")], 60.0, tmp_path)
    (classify,) = [step.fn for step in page.fns.values() if step.api_name == "classify"]
    first, second = (classify(str(tmp_path / "a.wav")) for _ in range(2))
    assert first == second and first["duration_s"] == 2.0


@contextlib.contextmanager
def served(environment, *arguments):
    """Serves the page on a free port, in another process; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "esc_jax", "demo", f"--port={port}", *arguments]
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


def wait_for(browser, script, condition, *arguments):
    """The value of a script, once the condition on it is true."""
    for _ in range(300):
        if condition(value := browser.run(script, *arguments)):
            return value
        time.sleep(0.2)
    raise AssertionError(f"still {value!r}")


SENTENCE = "return document.querySelector('#sentence strong')?.parentElement.innerText || ''"


@pytest.mark.slow
def test_the_page_in_a_browser(browser, untrained, classifier, environment, tmp_path):
    soundfile.write(tmp_path / "big.wav", noise(70.0), RATE)
    soundfile.write(tmp_path / "long.wav", noise(9.0), RATE)
    soundfile.write(tmp_path / "sound.wav", noise(3.0, seed=1), RATE)
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "examples").mkdir()
    soundfile.write(tmp_path / "examples/one.wav", np.zeros(RATE), RATE)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    arguments = (f"--model={untrained}", f"--examples={tmp_path}/examples", "--max_minutes=0.1", "--max_mb=1")
    with served(environment | {"TMPDIR": str(temporary)}, *arguments) as address:
        browser.call("/url", {"url": address})
        files = "return document.querySelectorAll('input[type=file]').length"

        def choose(name):
            wait_for(browser, files, bool)
            field = browser.find("input[type=file]")
            browser.call(f"/element/{field}/value", {"text": str(tmp_path / name)})

        def upload(name):
            choose(name)
            return wait_for(browser, SENTENCE, bool)

        def clear():
            browser.run("document.querySelector('button[aria-label=Clear]').click()")
            wait_for(browser, SENTENCE, lambda words: not words)

        expected = classifier.timeline(tmp_path / "sound.wav").mean().labels[0].replace("_", " ")
        choose("big.wav")
        shown = "return document.body.innerText"
        wait_for(browser, shown, lambda words: "exceed the maximum allowed size of 1.0 Mb" in words)
        assert upload("sound.wav") == f"{expected}, on average over 0:03.0."
        words = wait_for(browser, shown, lambda words: f"\n{expected}\n" in words)
        assert re.search(rf"{expected}\s+\d+%", words)
        wait_for(browser, "return [...document.images].some(i => i.naturalWidth > 1000)", bool)  # the timeline
        clear()
        assert upload("text.wav") == "This can't be used: not readable as audio (Format not recognised)."
        clear()
        assert upload("long.wav") == "This can't be used: the sound is longer than 0:06, the limit of this server."
        for _ in range(2):  # an example can be chosen repeatedly
            clear()
            browser.run("[...document.querySelectorAll('button')].find(b => b.innerText.trim() == 'one').click()")
            assert wait_for(browser, SENTENCE, bool) == "Silence, 0:01.0 of it."
        foreign = "r => !r.name.startsWith(arguments[0]) && !r.name.startsWith('data:') && !r.name.startsWith('blob:')"
        assert browser.run(f"return performance.getEntriesByType('resource').filter({foreign}).length", address) == 0
        browser.call("/url", {"url": "about:blank"})  # stops the page, which would draw on
    assert not list(temporary.rglob("*.wav"))  # the uploads are deleted with the server


@pytest.mark.slow
def test_a_proxy_is_not_used_and_sigterm_deletes_the_temporary_folder(untrained, environment, tmp_path):
    proxy = {"http_proxy": "http://127.0.0.1:9", "TMPDIR": str(tmp_path)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "esc_jax", "demo", f"--model={untrained}", f"--port={port}"]
    with subprocess.Popen(command, cwd=ROOT, env=environment | proxy, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("listening on http://127.0.0.1:")
        assert list(tmp_path.glob("esc_jax_demo_*"))
        process.terminate()
        assert process.wait(60) == 143
    assert not list(tmp_path.glob("esc_jax_demo_*"))


@pytest.mark.extended
def test_errors_are_one_sentence(run, untrained, tmp_path, environment):
    assert "nowhere: no such folder" in run("demo", "--model=nowhere", check=1).stderr
    done = run("demo", f"--model={untrained}", f"--examples={tmp_path}", check=1)
    assert done.stderr == f"esc_jax: --examples={tmp_path}: contains no recordings\n"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("demo", f"--model={untrained}", f"--port={port}", check=1)
    assert done.stderr == (
        f"esc_jax: 127.0.0.1:{port} is in use, or is not an address of this machine: choose another --port or --host\n"
    )
    code = "import sys; sys.modules['gradio'] = None; from esc_jax.cli import demo; sys.exit(demo.main(['--model=x']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, 'esc_jax: the demo requires Gradio: pip install "esc-jax[demo]"\n')
