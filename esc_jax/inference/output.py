"""Timelines as text tables, JSON and CSV."""

import math
import pathlib

from esc_jax.errors import UserError

SEGMENTS = ("begin", "middle", "end")


class PredictError(UserError, ValueError):
    """A command line that would do harm. The message is one sentence for the user."""


def _cells(prediction, k: int, width: int) -> str:
    if prediction is None:
        return "silence"
    listed = "   ".join(f"{label:<{width}} {100 * share:5.1f} %" for label, share in prediction.top(k)).rstrip()
    return listed + ("   (unlike anything in training)" if prediction.unfamiliar else "")


def table(name: str, timeline, k: int, segments: tuple[str, ...] | None = None) -> str:
    """What a terminal shows of a recording: a row per passage, or per segment.

    Args:
        name: of the file.
        timeline: `classifier.Timeline` of it.
        k: classes per row.
        segments: some of SEGMENTS; None for the passages, with a row for the whole.
    """
    from esc_jax.inference.timeline import clock

    if segments:
        places = [(s, timeline.at(s)) for s in segments]
        spans = [(s, timeline.starts[i], timeline.ends[i], timeline.mean(i, i + 1)) for s, i in places]
    else:
        edges = timeline.edges
        spans = [("", edges[a], edges[b], timeline.mean(a, b)) for a, b in timeline.passages()]
        spans.append(("whole", 0.0, timeline.duration_s, timeline.mean()))
    width = max((len(label) for _, _, _, p in spans if p for label in p.labels[:k]), default=0)
    count = len(timeline.starts)
    lines = [f"{name}: {timeline.duration_s:.1f} s, {count} window{'s' * (count != 1)}"]
    for label, begin, end, prediction in spans:
        times = f"{clock(begin, True):>9} –{clock(end, True):>9}"
        lines.append(f"  {label:<6} {times}   {_cells(prediction, k, width)}")
    return "\n".join(lines) + "\n"


def rows(timeline, k: int) -> list[dict]:
    """The windows of a timeline as objects for JSON: `start_s`, `end_s`, `level_db`, `silent`, `unfamiliar`, `top`.

    `level_db` is None where all samples are zero. `top` holds the k likeliest classes, and nothing where silent.
    """
    found = []
    for i, (start, end, level) in enumerate(zip(timeline.starts, timeline.ends, timeline.level_db, strict=True)):
        top = [] if timeline.silent[i] else timeline.mean(i, i + 1).top(k)
        found.append(
            {
                "start_s": round(float(start), 4),
                "end_s": round(float(end), 4),
                "level_db": round(float(level), 2) if math.isfinite(level) else None,
                "silent": bool(timeline.silent[i]),
                "unfamiliar": bool(timeline.unfamiliar[i]),
                "top": [{"class": label, "probability": round(share, 6)} for label, share in top],
            }
        )
    return found


def write_csv(path: pathlib.Path, done: list[tuple], k: int) -> None:
    import csv

    # Names of files are bytes, and may be no text.
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "start_s", "end_s", "class", "probability"])
        for name, timeline in done:
            for row in rows(timeline, k):
                # A class is never called silence with a probability: the gate is not a guess.
                classes = [("silence", "")] if row["silent"] else [(c["class"], c["probability"]) for c in row["top"]]
                writer.writerows([name, row["start_s"], row["end_s"], *pair] for pair in classes)


def write_json(path: pathlib.Path, done: list[tuple], problems: list[str], options, classifier) -> None:
    import json

    document = {
        "checkpoint": str(options.checkpoint),
        "classes": list(classifier.classes),
        "sample_rate": classifier.sample_rate,
        "window_s": options.window_s or classifier.window_s,
        "hop_s": options.hop_s,
        "smooth_s": options.smooth_s,
        "silence_db": options.silence_db,
        "files": [
            {"file": name, "duration_s": round(t.duration_s, 4), "note": t.note, "windows": rows(t, options.top_k)}
            for name, t in done
        ],
        "problems": problems,
    }
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def plot_path(out: pathlib.Path, file: str, taken: set[pathlib.Path], single: bool) -> pathlib.Path:
    """Where the picture of a file goes: OUT.png, or of several OUT-STEM.png, with a number where stems are equal."""
    if single:
        return out
    path, number = out.with_name(f"{out.stem}-{pathlib.Path(file).stem}{out.suffix}"), 1
    while path in taken:
        number += 1
        path = out.with_name(f"{out.stem}-{pathlib.Path(file).stem}-{number}{out.suffix}")
    taken.add(path)
    return path
