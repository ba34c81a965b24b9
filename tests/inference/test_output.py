"""Tables, CSV and names of pictures."""

import csv
import dataclasses
import os

import pytest

from esc_jax.evaluation.escaping import restore_cell
from esc_jax.inference import output
from tests.inference.factories import make_scene, make_timeline

COLUMNS = ["file", "start_s", "end_s", "class", "probability", "level_db", "silent", "unfamiliar"]


def test_the_table_has_a_row_for_each_passage():
    assert output.table("x.wav", make_timeline(unfamiliar=True, duration_s=3617.0), 2) == (
        "x.wav: 3617.0 s, 8 windows\n"
        "            0:00.0 –   0:05.0   rain       80.0 %   sea_waves  10.0 %\n"
        "            0:05.0 –   0:09.0   sea_waves  80.0 %   rain       10.0 %\n"
        "            0:09.0 –   0:11.0   silence\n"
        "            0:11.0 –   0:13.0   dog        80.0 %   rain       10.0 %   (unlike any class)\n"
        "            0:13.0 –1:00:17.0   rain       80.0 %   sea_waves  10.0 %   (unlike any class)\n"
        "  whole     0:00.0 –1:00:17.0   rain       50.0 %   sea_waves  30.0 %\n"
    )


def test_the_table_of_segments():
    assert output.table("x.wav", make_timeline(), 1, ("middle",)) == (
        "x.wav: 17.0 s, 8 windows\n  middle    0:06.0 –  0:10.0   sea_waves  80.0 %\n".replace(" –  0", " –   0")
    )


def test_the_table_of_a_multi_label_model_has_a_row_for_each_set_of_classes():
    assert output.table("x.wav", make_scene(), 2) == (
        "x.wav: 18.0 s, 8 windows\n"
        "            0:00.0 –   0:05.0   rain  80.0 %   (below threshold: sea_waves 5.0 %)\n"
        "            0:05.0 –   0:09.0   rain  80.0 %   dog   30.0 %\n"
        "            0:09.0 –   0:11.0   no class above its threshold   (nearest: rain 5.0 %, sea_waves 5.0 %)\n"
        "            0:11.0 –   0:13.0   silence\n"
        "            0:13.0 –   0:18.0   dog   30.0 %   (below threshold: rain 5.0 %)\n"
        "  whole     0:00.0 –   0:18.0   rain  80.0 %   dog   30.0 %\n"
    )
    one = output.table("x.wav", make_scene(), 1).splitlines()  # every detected class, whatever k is
    assert one[1].endswith("   rain  80.0 %") and one[2].endswith("   rain  80.0 %   dog   30.0 %")


def test_json_has_the_detected_classes_of_a_multi_label_model(tmp_path):
    rows = output.rows(make_scene(), 2)
    assert [row["detected"] for row in rows] == [["rain"]] * 2 + [["rain", "dog"]] * 2 + [[], []] + [["dog"]] * 2
    assert rows[5]["top"] == [] and [one["class"] for one in rows[2]["top"]] == ["rain", "dog"]
    assert "detected" not in output.rows(make_timeline(), 2)[0]
    output.write_csv(tmp_path / "o.csv", [("x.wav", make_scene())], 2)
    with open(tmp_path / "o.csv", newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == [*COLUMNS, "detected"] and len(table) == 1 + 7 * 2 + 1
    assert [row[:5] + row[6:] for row in table[3:7]] == [
        ["x.wav", "2.0", "6.0", "rain", "0.8", "false", "false", "true"],
        ["x.wav", "2.0", "6.0", "sea_waves", "0.05", "false", "false", "false"],
        ["x.wav", "4.0", "8.0", "rain", "0.8", "false", "false", "true"],
        ["x.wav", "4.0", "8.0", "dog", "0.3", "false", "false", "true"],
    ]


def test_a_silent_window_is_one_row_without_a_probability(tmp_path):
    timeline = make_timeline(unfamiliar=True)
    output.write_csv(tmp_path / "o.csv", [("x.wav", timeline)], 2)
    with open(tmp_path / "o.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == COLUMNS and len(rows) == 1 + 7 * 2 + 1
    assert rows[9][:5] == ["x.wav", "8.0", "12.0", "silence", ""] and rows[9][6:] == ["true", "false"]
    assert [float(row[5]) for row in rows[1:9:2]] == pytest.approx(timeline.level_db[:4], abs=0.01)
    marks = [str(mark).lower() for mark in timeline.unfamiliar[5:].tolist() for _ in range(2)]
    assert [row[7] for row in rows[10:]] == marks


@pytest.mark.skipif(os.name == "nt", reason="file names are text on Windows")
def test_file_names_that_are_not_text(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b'/\xff,"a.wav')
    output.write_csv(tmp_path / "o.csv", [(name, make_timeline())], 1)
    with open(tmp_path / "o.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert {row[0] for row in csv.reader(file)} == {"file", name}


def test_names_of_pictures(tmp_path):
    taken, names = set(), []
    for file in ("a/x.wav", "y.ogg", "b/x.wav", "x.mp3", "X.wav", "x-2.wav"):
        path = output.plot_path(tmp_path / "o.png", file, taken, False)
        taken.add(path.name.casefold())
        names.append(path.name)
    assert names == ["o-x.png", "o-y.png", "o-x-2.png", "o-x-3.png", "o-X-4.png", "o-x-2-2.png"]
    assert output.plot_path(tmp_path / "o.png", "x.wav", set(), True).name == "o.png"


def test_names_are_no_formulas_in_a_spreadsheet(tmp_path):
    timeline = dataclasses.replace(make_timeline(), classes=("=rain", "+sea_waves", "dog"))
    output.write_csv(tmp_path / "o.csv", [("-x.wav", timeline)], 3)
    with open(tmp_path / "o.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert {row[0] for row in rows} == {"'-x.wav"} and {row[3] for row in rows} >= {"'=rain", "'+sea_waves", "dog"}
    assert {restore_cell(row[0]) for row in rows} == {"-x.wav"}


def test_a_csv_file_for_excel(tmp_path):
    timeline = dataclasses.replace(make_timeline(), classes=("Uhu", "Käuzchen", "猫"))
    for bom in (False, True):
        output.write_csv(tmp_path / f"{bom}.csv", [("ä.wav", timeline)], 3, bom)
    plain, marked = ((tmp_path / f"{bom}.csv").read_bytes() for bom in (False, True))
    assert plain.startswith(b"file,") and marked == b"\xef\xbb\xbf" + plain
