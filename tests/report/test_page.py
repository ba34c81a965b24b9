"""report.html: one file with clips that can be played, also tested in a browser."""

import base64
import html.parser
import io
import json
import shutil
import time

import numpy as np
import pytest
import soundfile

from esc_jax.report import media, page, write, write_ups
from esc_jax.report import runs as finished
from tests.report.factories import GOOD, RATE, fold_labels, fold_scores, write_run


class ParsedPage(html.parser.HTMLParser):
    """Elements with their attributes. Checks that elements are closed in the right order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_is_one_file(written_report):
    _, out = written_report
    parsed = ParsedPage((out / "report.html").read_text())
    assert parsed.open == []
    links = [source.url for source in write_ups.SOURCES if source.url]
    assert links == [a["href"] for tag, a in parsed.elements if tag == "a" and not a["href"].startswith("#")]
    for tag, attributes in parsed.elements:
        assert tag not in ("link", "iframe", "object")
        assert attributes.get("src", "data:image/png;base64,").startswith(("data:image/png;", "data:audio/mpeg;"))
        assert attributes.get("href", "#").startswith(("#", *links))
    assert all(attributes["alt"] for tag, attributes in parsed.elements if tag == "img")
    ids = {attributes.get("id") for _, attributes in parsed.elements}
    assert {a["href"][1:] for tag, a in parsed.elements if tag == "a" and a["href"].startswith("#")} <= ids
    heads = [a for tag, a in parsed.elements if tag == "th" and "aria-sort" in a]
    assert len(heads) == 9 + 7 and {a["aria-sort"] for a in heads} == {"none"}


def test_mistakes_have_audio_and_spectrogram(written_report):
    _, out = written_report
    parsed = ParsedPage((out / "report.html").read_text())
    # The best run that was not selected on its test fold is cv. It predicts rain for clip 3 of both folds, a cat.
    players = {a["aria-label"]: a["src"] for tag, a in parsed.elements if tag == "audio"}
    assert set(players) == {"1-1-3.wav", "2-13-27.wav"}
    for name, position in (("1-1-3.wav", 3), ("2-13-27.wav", 27)):
        mp3 = base64.b64decode(players[name].split(",", 1)[1])
        wave, rate = soundfile.read(io.BytesIO(mp3))
        assert rate == RATE and len(wave) == pytest.approx(RATE, rel=0.1)  # the encoder pads the last frame
        middle = wave[RATE // 4 : RATE // 4 + RATE // 2]
        pitch = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))).argmax() * rate / len(middle)
        assert abs(pitch - (300 + 20 * position)) <= 2  # bins of 2 Hz
    assert sum(a.get("alt", "").startswith("Mel spectrogram of") for _, a in parsed.elements) == 2


def test_missing_clips_are_reported(runs_dir, data_dir, tmp_path):
    run = finished.read(runs_dir / "good")
    assert set(media.media(run, ["1-0-0.wav"])[0]) == {"1-0-0.wav"}
    available, reason = media.media(run, ["1-0-0.wav", "no.wav"])
    assert set(available) == {"1-0-0.wav"} and reason == "Not readable: no.wav."
    shutil.copytree(runs_dir / "good", tmp_path / "runs/good")
    path = tmp_path / "runs/good/config.json"
    config = json.loads(path.read_text())
    messages = {"nowhere": "does not exist", "other": "contains other data than good"}
    for name, message in messages.items():
        folder = tmp_path / name
        if name == "other":
            shutil.copytree(data_dir, folder)
            with open(folder / "audio/1-0-0.wav", "ab") as file:
                file.write(b"\0")
        config["data"]["dir"] = str(folder)
        path.write_text(json.dumps(config))
        write.write_report(tmp_path / "runs", tmp_path / "report")
        text = (tmp_path / "report/report.html").read_text()
        assert "Clips not available: " in text and message in text
        assert "<audio" not in text and "predicted: <b>sea waves</b>" in text


def test_windows_of_tracks(runs_dir):
    run = finished.read(runs_dir / "good")
    run.config["data"]["clip_s"] = 0.25
    clip_media = media.media(run, ["1-0-0.wav@0.5s"])[0]["1-0-0.wav@0.5s"]
    wave, rate = soundfile.read(io.BytesIO(clip_media.mp3))
    assert len(wave) / rate == pytest.approx(0.25, abs=0.1)  # MP3 frames of 36 ms, and the delay of the encoder


def test_the_page_stays_small(clips, data_dir, tmp_path):
    both = [
        (fold, 0, fold_scores(fold_labels(clips, fold), {p: (p + 1 + p // 4 % 3) % 4 for p in range(24)}, 0.9))
        for fold in (1, 2)
    ]
    write_run(tmp_path / "runs/none", clips, data_dir, both)
    findings = write.write_report(tmp_path / "runs", tmp_path / "report")
    assert findings.runs[0].score.value == 0.0
    parsed = ParsedPage((tmp_path / "report/report.html").read_text())
    # Six pairs of classes with up to four mistakes each.
    assert sum(tag == "audio" for tag, _ in parsed.elements) == page.MAX_CLIPS == 24
    assert (tmp_path / "report/report.html").stat().st_size < 5e6


def test_names_from_files_stay_text(clips, data_dir, tmp_path):
    root = tmp_path / "runs"
    hostile = "<img src=x onerror=alert(1)>|`*"
    write_run(root / "a", clips, data_dir, [(1, 0, fold_scores(fold_labels(clips, 1), GOOD, 0.9))], name=hostile)
    results, rows = json.loads((root / "a/results.json").read_text()), (root / "a/predictions.csv").read_text()
    results["data"]["classes"][0] = "</script><b>"
    (root / "a/results.json").write_text(json.dumps(results))
    (root / "a/predictions.csv").write_text(rows.replace("rain", "</script><b>"))
    (root / "a").rename(root / "<i>&amp;'\"")
    write.write_report(root, tmp_path / "report")
    parsed = ParsedPage((tmp_path / "report/report.html").read_text())
    assert parsed.open == [] and not {"i", "script"} & {
        tag for tag, a in parsed.elements if tag != "script" and not a.get("style")
    }
    assert sum(tag == "script" for tag, _ in parsed.elements) == 1
    assert not any("onerror" in a or a.get("src") == "x" for _, a in parsed.elements)
    texts = "".join(parsed.texts)
    assert hostile in texts and "<i>&amp;'\"" in texts and "“</script><b>”" in texts
    text = (tmp_path / "report/report.md").read_text()
    assert r"\<img src=x onerror=alert(1)\>\|\`\*" in text and "<b>" not in text


_COLUMN = (
    """return [...document.querySelectorAll("#leaderboard tbody tr")].map(row => row.cells[arguments[0]].innerText)"""
)
_SORTS = """return [...document.querySelectorAll("#leaderboard thead th")].map(th => th.getAttribute("aria-sort"))"""


def test_the_page_in_a_browser(browser, written_report):
    _, out = written_report
    browser.call("/url", {"url": (out / "report.html").resolve().as_uri()})
    first = ["cv", "oracle †", "good", "deep/poor"]
    assert browser.run(_COLUMN, 0) == first

    def click(column):
        button = browser.find(f"#leaderboard thead th:nth-child({column + 1}) button")
        browser.call(f"/element/{button}/click", {})
        return button

    click(0)  # names, from A to Z
    assert browser.run(_COLUMN, 0) == ["cv", "deep/poor", "good", "oracle †"]
    assert browser.run(_SORTS) == ["ascending"] + ["none"] * 8
    click(8)  # minutes, in descending order
    assert browser.run(_COLUMN, 8) == ["3.0", "1.5", "1.5", "0.5"]
    assert browser.run(_SORTS) == ["none"] * 8 + ["descending"]
    button = click(4)  # with TTA: only one run has it, and the others stay below in both directions
    assert browser.run(_COLUMN, 4)[0].startswith("95.83")
    browser.call(f"/element/{button}/value", {"text": "\ue007"})  # the Enter key
    assert browser.run(_SORTS)[4] == "ascending" and browser.run(_COLUMN, 4)[0].startswith("95.83")

    script = "return [...document.querySelectorAll('audio')].map(a => [a.duration, a.error && a.error.message])"
    for _ in range(100):
        sounds = browser.run(script)
        if all(duration or error for duration, error in sounds):
            break
        time.sleep(0.2)
    assert len(sounds) == 2
    for duration, error in sounds:
        assert error is None and duration == pytest.approx(1.0, abs=0.1)  # the encoder pads the last frame
    widths = browser.run("return [...document.images].map(image => image.complete && image.naturalWidth)")
    assert len(widths) == 4 and all(width > 100 for width in widths)
    assert (
        browser.run("return performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length")
        == 0
    )
    # The page is not wider than the window. Wide tables scroll.
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
