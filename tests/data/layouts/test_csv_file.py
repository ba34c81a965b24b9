"""A csv of files and labels: its columns, its files, and what is wrong with one."""

import csv
import io
import os
import pathlib
import random
import subprocess
import sys
import unicodedata

import hypothesis
from hypothesis import strategies as st
import pytest

from esc_jax.data.layouts.csv_file import CsvLayout
from esc_jax.data.layouts.options import Options
from esc_jax.data.layouts.registry import open_source
from esc_jax.data.layouts.table import USUAL
from esc_jax.data.rows import DataError


def write(folder, table, *, name="sounds.csv", encoding="utf-8", files=None):
    """Writes a table and the files that it names (its first column); returns the path of the table."""
    path = folder / name
    path.write_bytes(table.encode(encoding) if isinstance(table, str) else table)
    if files is None:
        delimiter = max(",;\t", key=table.splitlines()[0].count)
        files = [row[0].strip() for row in csv.reader(io.StringIO(table), delimiter=delimiter) if row][1:]
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(file.encode())
    return path


def contents(layout):
    """File → classes."""
    return {row.filename: [layout.categories[t] for t in row.targets] for row in layout.rows}


TABLE = "filename,label\na.wav,dog\nb.wav,cat\nsub/c.wav,dog\nd.wav,cat\n"
EXPECTED = {"a.wav": ["dog"], "b.wav": ["cat"], "d.wav": ["cat"], "sub/c.wav": ["dog"]}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_delimiters_and_encodings(tmp_path, delimiter, encoding, newline):
    files = list(EXPECTED)
    path = write(tmp_path, TABLE.replace(",", delimiter).replace("\n", newline), encoding=encoding, files=files)
    layout = CsvLayout(path)
    assert contents(layout) == EXPECTED and layout.categories == ("cat", "dog") and layout.task == "single_label"
    assert [layout.read(row) for row in layout.rows] == [name.encode() for name in EXPECTED]
    assert layout.fingerprint == CsvLayout(write(tmp_path, TABLE)).fingerprint


@pytest.mark.parametrize("role", ["file", "labels", "fold", "group"])
def test_every_usual_name_of_a_column(tmp_path, role):
    for name in [*USUAL[role], *{"file": ("File Name", "slice_file_name"), "fold": ("fold_id",)}.get(role, ())]:
        header = {"file": "filename", "labels": "label", "fold": "fold", "group": "src_file"} | {role: name.upper()}
        table = ",".join(header.values()) + "\na.wav,dog,1,x\nb.wav,cat,2,y\nc.wav,cat,1,x\n"
        layout = CsvLayout(write(tmp_path, table))
        assert [(r.filename, r.targets, r.fold, r.src_file) for r in layout.rows] == [
            ("a.wav", (1,), 1, "x"), ("b.wav", (0,), 2, "y"), ("c.wav", (0,), 1, "x"),
        ]  # fmt: skip
        assert layout.grouping.kind == "column" and not layout.grouping.assigned_folds


def test_columns_are_named_by_the_config(tmp_path):
    table = "filename,sound,label,set,Größe\na.wav,dog,x,1,r1\nb.wav,cat,y,2,r2\n"
    write(tmp_path, table)
    columns = {"labels": "Sound", "fold": "set", "group": unicodedata.normalize("NFD", "Größe")}
    layout = CsvLayout(tmp_path / "sounds.csv", Options(columns=columns))
    assert layout.categories == ("cat", "dog") and [(r.fold, r.src_file) for r in layout.rows] == [(1, "r1"), (2, "r2")]
    with pytest.raises(
        DataError, match=r"data.columns.fold=folds: .*no such column; it has filename, sound, label, set"
    ):
        CsvLayout(tmp_path / "sounds.csv", Options(columns={"fold": "folds"}))


def test_columns_that_are_not_used(tmp_path):
    path = write(tmp_path, "filename,label,fold,source\na.wav,dog,7,web\nb.wav,cat,8,web\n")
    rows = CsvLayout(path, Options(columns={"fold": "none", "group": "none"})).rows
    assert sorted(row.fold for row in rows) == [1, 2] and [row.src_file for row in rows] == ["a", "b"]


def test_a_name_is_preferred_to_a_number(tmp_path):
    layout = CsvLayout(write(tmp_path, "fname,target,category\na.wav,1,dog\nb.wav,0,cat\n"))
    assert layout.categories == ("cat", "dog")
    layout = CsvLayout(write(tmp_path, "fname,target\na.wav,10\nb.wav,9\n"))
    assert layout.categories == ("9", "10")


def test_white_space_and_empty_lines(tmp_path):
    table = ' filename , label \n\n a.wav , dog\n"b.wav",  "cat"\n , \n'
    assert contents(CsvLayout(write(tmp_path, table, files=["a.wav", "b.wav"]))) == {"a.wav": ["dog"], "b.wav": ["cat"]}


def test_names_in_other_unicode_forms(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Vögel/ä é") for form in ("NFC", "NFD"))
    for number, (on_disk, named) in enumerate([(composed, decomposed), (decomposed, composed)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder, f"filename,label\n{named}.wav,Käuzchen\nb.wav,cat\n", files=[f"{on_disk}.wav", "b.wav"])
        layout = CsvLayout(folder / "sounds.csv")
        assert [row.filename for row in layout.rows] == [f"{composed}.wav", "b.wav"]
        assert layout.read(layout.rows[0]) == f"{on_disk}.wav".encode()
        label = unicodedata.normalize("NFD", "Käuzchen")
        write(folder, f"filename,label\n{named}.wav,{label}\nb.wav,cat\n", files=[])
        assert CsvLayout(folder / "sounds.csv").fingerprint == layout.fingerprint


def test_files_without_extension(tmp_path):
    path = write(tmp_path, "fname,label\n64760,dog\nrec.1,cat\n", files=["audio/64760.WAV", "rec.1.flac", "64760.txt"])
    assert contents(CsvLayout(path)) == {"audio/64760.WAV": ["dog"], "rec.1.flac": ["cat"]}
    (tmp_path / "audio/64760.ogg").write_bytes(b"")
    with pytest.raises(DataError, match=r"line 2: 'audio/64760' is the name of 64760.WAV and 64760.ogg: give the ext"):
        CsvLayout(path)


def test_where_relative_names_are_looked_up(tmp_path):
    """In the folder of the csv, then in the folder audio beside it."""
    files = ["a.wav", "audio/a.wav", "audio/b.wav", "audio/sub/c.wav"]
    path = write(tmp_path, "path,label\na.wav,dog\nb.wav,cat\n./sub\\c.wav,cat\n", files=files)
    assert contents(CsvLayout(path)) == {"a.wav": ["dog"], "audio/b.wav": ["cat"], "audio/sub/c.wav": ["cat"]}


def test_absolute_paths(tmp_path):
    """Files are called by what their paths do not have in common: the fingerprint does not depend on the folder."""
    fingerprints = set()
    for place in ("here", "there/deep"):
        data = tmp_path / place / "data"
        data.mkdir(parents=True)
        files = ["x/a.wav", "y/b.wav"]
        write(data, "", name="unused.txt", files=files)
        table = f"file,label\n{data}/x/a.wav,dog\n{data}/y/b.wav,cat\n"
        layout = CsvLayout(write(tmp_path, table, files=[]))
        assert contents(layout) == {"x/a.wav": ["dog"], "y/b.wav": ["cat"]}
        fingerprints.add(layout.fingerprint)
    assert len(fingerprints) == 1
    mixed = CsvLayout(write(tmp_path, f"{table}here/data/x/a.wav,dog\n", files=[]))
    assert sorted(contents(mixed)) == ["absolute/x/a.wav", "absolute/y/b.wav", "here/data/x/a.wav"]


@pytest.mark.parametrize(
    ("cells", "separator", "expected"),
    [
        (["a,b", "a", "c"], "auto", [["a", "b"], ["a"], ["c"]]),
        (["a; b", "a", "c,d"], "auto", [["a", "b"], ["a"], ["c,d"]]),  # a semicolon wins
        (["a|b,c", "d"], "auto", [["a", "b,c"], ["d"]]),
        (["a b", "a", "b"], "auto", [["a", "b"], ["a"], ["b"]]),
        (["church bells", "bells", "dog"], "auto", [["church bells"], ["bells"], ["dog"]]),  # never "church" alone
        (["a b", "a", "b", "c d"], "auto", [["a b"], ["a"], ["b"], ["c d"]]),
        (["a,b", "c", "d"], "", [["a,b"], ["c"], ["d"]]),
        (["a b", "c", "d"], " ", [["a", "b"], ["c"], ["d"]]),
        (["a/b", "c", ""], "/", [["a", "b"], ["c"], []]),
        (["b,a,b,", " c ,a", ""], "auto", [["a", "b"], ["a", "c"], []]),
    ],
)
def test_several_labels_in_a_cell(tmp_path, cells, separator, expected):
    table = io.StringIO()
    csv.writer(table).writerows([["file", "labels"], *([f"{i}.wav", cell] for i, cell in enumerate(cells))])
    layout = CsvLayout(write(tmp_path, table.getvalue()), Options(label_separator=separator))
    assert list(contents(layout).values()) == expected
    several = any(len(labels) > 1 for labels in expected)
    assert layout.task == ("multi_label" if several else "single_label")


def test_the_separator_is_logged(tmp_path, caplog):
    with caplog.at_level("INFO"):
        CsvLayout(write(tmp_path, 'file,labels\na.wav,"dog,cat"\nb.wav,dog\nc.wav,\n'))
    assert "labels are separated at ',', up to 2 in a file; 1 file without one" in caplog.text


def test_names_of_splits_are_folds(tmp_path, caplog):
    names = ["train", "Training", "val", "valid", "validation", "dev", "test", "eval", "evaluation", "testing"]
    table = "file,label,split\n" + "".join(f"{i}.wav,{'ab'[i % 2]},{name}\n" for i, name in enumerate(names))
    with caplog.at_level("INFO"):
        layout = CsvLayout(write(tmp_path, table))
    assert [row.fold for row in layout.rows] == [2, 2, 1, 1, 1, 1, 3, 3, 3, 3] and not layout.grouping.assigned_folds
    assert "dev is fold 1, train is fold 2, training is fold 2, test is fold 3" in caplog.text
    assert "test on a split with data.test_fold" in caplog.text


@pytest.mark.parametrize("values", [("1", "2"), ("1.0", "2.0"), ("fold1", "Fold_2")])
def test_numbers_of_folds(tmp_path, values):
    table = "file,label,fold\na.wav,dog,{}\nb.wav,cat,{}\n".format(*values)
    assert [row.fold for row in CsvLayout(write(tmp_path, table)).rows] == [1, 2]


def test_a_folder_with_one_csv(tmp_path):
    write(tmp_path, TABLE)
    assert contents(CsvLayout(tmp_path)) == EXPECTED
    assert isinstance(open_source(tmp_path), CsvLayout) and isinstance(open_source(tmp_path / "sounds.csv"), CsvLayout)
    write(tmp_path, TABLE, name="more.tsv")
    with pytest.raises(DataError, match=r"holds 2 csv files, more.tsv, sounds.csv: give the path of one"):
        CsvLayout(tmp_path)
    with pytest.raises(
        DataError, match="holds no csv file: give the path of one; class folders are read with data.name=f"
    ):
        CsvLayout(tmp_path / "sub")


MISTAKES = [
    ("", r"sounds.csv is empty: its first line names the columns, for example filename,label"),
    ("\n \n", r"is empty"),
    ("filename,label\n", r"has no rows below its header"),
    ("filename\na.wav\n", r"has one column, 'filename': a file and its label are separated by comma, semicolon or tab"),
    ("filename|label\na.wav|dog\n", r"has one column, 'filename\|label'"),
    ("a.wav,dog\nb.wav,cat\n", r"has no column of the files by one of the names filename, file, .*; it has a.wav, dog"),
    (
        "filename,size\na.wav,3\n",
        r"has no column of the labels .*; it has filename, size: name it with data.columns.lab",
    ),
    ("filename,label\na.wav,dog,x\n", r"sounds.csv, line 2: give it as many values as there are columns, 2; it has 3"),
    ("filename,label\na.wav,dog\nb.wav,dog\n", r"holds one class, dog; at least two classes are needed"),
    ("filename,label\na.wav,\nb.wav,\n", r"column label of .* names no labels: every cell is empty"),
    ("filename,label\na.wav,dog\nb.wav,\n", r"line 3: names no label, as 1 of 2 rows: give each file a label"),
    ("filename,label\na.wav,dog\n,cat\n", r"sounds.csv, line 3: names no file"),
    ("filename,label\na.wav,dog\na.wav,cat\n", r"lines 2 and 3 both name a.wav: give each file one row, with all of"),
    ("filename,label\na.wav,dog\n./a.wav,cat\n", r"lines 2 and 3 both name ./a.wav"),
    ("filename,label\na.wav,dog\na,cat\n", r"lines 2 and 3 both name a: "),
    ("filename,label\n../a.wav,dog\n", r"line 2: '../a.wav' leads out of .*: move the table above the files, or give"),
    ("filename,label\nx/../../a.wav,dog\n", r"line 2: 'x/../../a.wav' leads out of"),
    (
        "filename,label\nx.wav,dog\na.wav,cat\ny.wav,cat\n",
        r"2 of the 3 files named .* are not there \(the first: line 2",
    ),
    (
        "filename,label,fold\na.wav,dog,x\n",
        r"column fold of .*, line 2: 'x' is no fold: expected a whole number from 0",
    ),
    ("filename,label,fold\na.wav,dog,-1\n", r"'-1' is no fold"),
    ("filename,label,fold\na.wav,dog,\n", r"line 2: '' is no fold"),
    ("filename,label,fold\na.wav,dog,1\nb.wav,cat,train\n", r"has both numbers and names of splits \(train\)"),
    (
        "filename,label,group\na.wav,dog,r\nb.wav,cat,r\n",
        r"all 2 files .* are of one recording, r, so that no folds can",
    ),
    ('filename,label\na.wav,"wild\ncat"\nb.wav,dog\n', r"the name of class 1, 'wild\\ncat', must be one line of text"),
    (f"filename,label\na.wav,{'x' * 200_000}\n", r"line 2: not a csv \(field larger than field limit"),
    ("filename,label\na.wav,d\0g\n", r"sounds.csv is not a text file; expected a csv"),
    (b"filename,label\na.wav,K\xe4uzchen\n", r"sounds.csv is not UTF-8: save it as CSV UTF-8"),
    (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(range(256)), r"sounds.csv is not"),
]


@pytest.mark.parametrize(("table", "message"), MISTAKES)
def test_what_is_wrong_is_named(tmp_path, table, message):
    path = write(tmp_path, table, files=["a.wav", "b.wav"])
    with pytest.raises(DataError, match=message) as error:
        CsvLayout(path)
    assert "\n" not in str(error.value) and error.value.status == 2


def test_a_separator_that_is_in_no_cell(tmp_path):
    with pytest.raises(
        DataError, match=r"data.label_separator='/' is in no cell of column label .*, such as 'dog'; set"
    ):
        CsvLayout(write(tmp_path, TABLE), Options(label_separator="/"))


def test_a_path_that_is_no_csv(tmp_path):
    with pytest.raises(DataError, match=r"nothing.csv does not exist"):
        CsvLayout(tmp_path / "nothing.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"pipe.csv is not a csv file"):
        CsvLayout(tmp_path / "pipe.csv")


@pytest.mark.parametrize("named", ["b.wav", "b"])
def test_what_is_no_file_is_named(tmp_path, named):
    path = write(tmp_path, f"filename,label\na.wav,dog\n{named},cat\n", files=["a.wav", "in/c.wav"])
    target = tmp_path / "b.wav"

    def message():
        with pytest.raises(DataError) as error:
            CsvLayout(path)
        return str(error.value)

    outside = tmp_path.parent / f"{tmp_path.name}-outside.wav"
    outside.write_bytes(b"x")
    target.symlink_to(outside)
    assert f"line 3: '{named}' is a link out of the data set, to {outside}: copy the file, or give its abs" in message()
    target.unlink()
    target.symlink_to("nothing")
    assert f"'{named}' is a link to a file that does not exist: remove it" in message()
    target.unlink()
    target.symlink_to("in/c.wav")
    assert sorted(contents(CsvLayout(path))) == ["a.wav", "b.wav"]  # a link inside the data set
    target.unlink()
    os.mkfifo(target)
    assert f"'{named}' is a named pipe, not an audio file: remove it" in message()
    target.unlink()
    target.mkdir()
    assert f"'{named}' is a folder, not an audio file: remove it" in message()
    path.write_text(path.read_text().replace(f"{named},", f"{target},"))
    assert "is not an audio file: remove the row" in message()
    path.write_text(path.read_text().replace(str(target), str(outside)))
    assert len(CsvLayout(path).rows) == 2  # an absolute path is used as it is given


def test_a_folder_that_leads_out(tmp_path):
    outside = tmp_path / "outside"
    (tmp_path / "tree").mkdir()
    path = write(tmp_path / "tree", "filename,label\na.wav,dog\nout/b.wav,cat\n", files=["a.wav"])
    outside.mkdir()
    (outside / "b.wav").write_bytes(b"x")
    (tmp_path / "tree/out").symlink_to(outside)
    with pytest.raises(DataError, match=r"line 3: .*/tree/out is a link out of the data set: copy the folder, or give"):
        CsvLayout(path)


def test_too_many_classes(tmp_path):
    table = "filename,label\n" + "".join(f"{i}.wav,label {i}\n" for i in range(10_001))
    path = write(tmp_path, table, files=[])
    for i in range(10_001):
        (tmp_path / f"{i}.wav").touch()
    with pytest.raises(DataError, match=r"have 10001 different labels, such as label 0 and label 1, and at most 10000"):
        CsvLayout(path)


MILLION = """
import re, sys
from esc_jax.data.layouts.registry import open_source
try:
    open_source(sys.argv[1])
except ValueError as error:
    print(error)
# Not ru_maxrss, which starts from the memory of the process that started this one.
print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory in /proc")
def test_a_million_rows(tmp_path):
    """Refused with the number of missing files, within a gigabyte of memory."""
    lines = (f"audio/rec{i // 4}_{i % 4}.wav,class {i % 50},{i // 4}\n" for i in range(1_000_000))
    path = tmp_path / "million.csv"
    with open(path, "w") as file:
        file.writelines(["filename,label,recording\n", *lines])
    command = [sys.executable, "-c", MILLION, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[3])
    message, kibibytes = done.stdout.strip().split("\n")
    assert message.startswith(
        f"data.dir: 1000000 of the 1000000 files named in {path} are not there (the first: line 2"
    )
    assert int(kibibytes) < 1e6


def test_a_class_with_few_recordings_is_named(tmp_path, caplog):
    table = "filename,label\n" + "".join(f"{i}.wav,{name}\n" for i, name in enumerate(["dog"] * 9 + ["owl"] * 2))
    path = write(tmp_path, table)
    CsvLayout(path)
    assert (
        "classes with fewer recordings than folds, so that some folds have none: 1 (data.folds=5): owl" in caplog.text
    )
    caplog.clear()
    CsvLayout(path, Options(folds=2))
    assert "fewer" not in caplog.text


def test_content_labels_and_folds_make_the_fingerprint(tmp_path):
    path = write(tmp_path, TABLE)
    seen = {CsvLayout(path).fingerprint, CsvLayout(path, Options(folds=2)).fingerprint}
    (tmp_path / "a.wav").write_bytes(b"other")
    seen.add(CsvLayout(path).fingerprint)
    path.write_text(TABLE.replace("dog", "fox"))
    seen.add(CsvLayout(path).fingerprint)
    assert len(seen) == 4


@hypothesis.given(seed=st.integers(0, 1000), number=st.integers(2, 12))
def test_the_order_of_the_rows_has_no_say(tmp_path_factory, seed, number):
    folder = tmp_path_factory.mktemp("csv")
    lines = [f"rec{i // 2}_{i % 2}.wav,{'abc'[i % 3]}\n" for i in range(number + 2)]
    first = CsvLayout(write(folder, "filename,label\n" + "".join(lines)))
    second = CsvLayout(write(folder, "filename,label\n" + "".join(random.Random(seed).sample(lines, len(lines)))))
    assert first.rows == second.rows and first.fingerprint == second.fingerprint
