"""Reading a data set in the official layout, and saying what is wrong with one."""

import shutil
import unicodedata
import zipfile

import pytest

from esc_jax.data.audio import AudioError
from esc_jax.data.layouts.esc50 import Esc50Layout
from esc_jax.data.rows import DataError

HEADER = "filename,fold,target,category,esc10,src_file,take\n"


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta/esc50.csv").write_text(HEADER + "1-7-A-0.wav,1,0,dog,True,7,A\n2-8-B-1.wav,2,1,cat,False,8,B\n")
    (tmp_path / "audio/1-7-A-0.wav").write_bytes(b"one")
    (tmp_path / "audio/2-8-B-1.wav").write_bytes(b"three")
    return tmp_path


def test_tree_and_zip_are_the_same(tree, tmp_path_factory):
    archive = tmp_path_factory.mktemp("zip") / "esc.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(tree.rglob("*.*")):
            file.write(path, f"ESC-50-master/{path.relative_to(tree)}")
    one, other = Esc50Layout(tree), Esc50Layout(archive)
    assert one.rows == other.rows and one.fingerprint == other.fingerprint
    assert [one.read(r) for r in one.rows] == [other.read(r) for r in other.rows] == [b"one", b"three"]
    assert one.categories == ("dog", "cat")
    replace_csv(tree, "1,cat", "1, cat ")
    assert Esc50Layout(tree).categories == ("dog", "cat")
    assert [(r.fold, r.src_file, r.take) for r in one.rows] == [(1, "7", "A"), (2, "8", "B")]


def replace_csv(tree, old, new):
    path = tree / "meta/esc50.csv"
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("category", "class", "has no column category"),
        ("1-7-A-0.wav,1,", "1-7-A-0.wav,one,", "line 2: fold and target must be whole numbers"),
        ("2,1,cat", "2,3,cat", "targets are not 0 to 3 without a gap"),
        ("2,1,cat", "2,0,cat", "target 0 is called dog and cat"),
        ("1,cat", "1, dog ", "targets 0 and 1 are both called dog"),
        ("1,cat", "1, ", "the name of class 1, '', must be one line of text"),
        ("1,cat", '1,"wild\ncat"', r"the name of class 1, 'wild\\ncat', must be one line of text"),
        ("2-8-B-1.wav", "1-7-A-0.wav", "line 3: every row must name a file of its own, and this one has '1-7-A-0.wav'"),
        ("2-8-B-1.wav", "", "line 3: every row must name a file of its own, and this one has ''"),
        (",8,B", "", "line 3: give it as many values as there are columns, 7"),
        (",8,B", ",8,B,C", "line 3: give it as many values as there are columns, 7"),
        ("2,1,cat", "-2,1,cat", "line 3: the fold must be a number from 0 to 99999"),
        ("2,1,cat", "9999999999,1,cat", "line 3: the fold must be a number from 0 to 99999"),
        ("2-8-B-1.wav", "2-9-B-1.wav", r"1 of the 2 files named in meta/esc50.csv are not in .*audio/2-9-B-1.wav"),
    ],
)
def test_what_is_wrong_is_named(tree, old, new, message):
    replace_csv(tree, old, new)
    with pytest.raises(DataError, match=message):
        Esc50Layout(tree)


def test_not_a_data_set(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        Esc50Layout(tmp_path / "nothing")
    with pytest.raises(DataError, match="holds no meta/esc50.csv"):
        Esc50Layout(tmp_path)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/1.WAV").write_bytes(b"")
    with pytest.raises(DataError, match="holds no meta/esc50.csv.*; its folders of sounds.* data.name=folder$"):
        Esc50Layout(tmp_path)
    (tmp_path / "file.zip").write_bytes(b"not a zip")
    with pytest.raises(DataError, match="neither a folder nor a readable zip"):
        Esc50Layout(tmp_path / "file.zip")


@pytest.mark.parametrize("table", ["{}\n{},1,0,dog\n{},2,1,cat\n", "{},src_file\n{},1,0,dog,\n{},2,1,cat, \n"])
def test_a_clip_without_a_recording_is_one(tree, table):
    names = "1-7-A-0.wav", "2-8-B-1.wav"
    # As Excel saves it.
    (tree / "meta/esc50.csv").write_text(table.format("filename,fold,target,category", *names), encoding="utf-8-sig")
    assert [(r.filename, r.src_file, r.take) for r in Esc50Layout(tree).rows] == [(name, name, "") for name in names]


def test_two_data_sets_in_one_folder_are_refused(tree, tmp_path_factory):
    both = tmp_path_factory.mktemp("both")
    for name in ("one", "two"):
        shutil.copytree(tree, both / name)
    archive, _ = zipped(both, tmp_path_factory.mktemp("zip"))
    for path in (both, archive):
        with pytest.raises(DataError, match="holds several data sets, one and two: give one of them"):
            Esc50Layout(path)
    shutil.copytree(tree, both, dirs_exist_ok=True)
    assert Esc50Layout(both).fingerprint == Esc50Layout(tree).fingerprint  # the folder's own


def test_a_dangling_link_that_no_row_names_does_not_matter(tree):
    before = Esc50Layout(tree).fingerprint
    (tree / "audio/other.wav").symlink_to(tree / "nothing")
    assert Esc50Layout(tree).fingerprint == before


def zipped(tree, folder, **options):
    """The tree as a zip; returns its path, and for every member the place at which its content begins."""
    path = folder / "esc.zip"
    with zipfile.ZipFile(path, "w", **options) as file:
        for member in sorted(tree.rglob("*.*")):
            file.write(member, member.relative_to(tree))
        return path, {i.filename: i.header_offset + 30 + len(i.filename) for i in file.infolist()}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("member", ["meta/esc50.csv", "audio/2-8-B-1.wav"])
@pytest.mark.parametrize("what", ["damaged", "encrypted"])
def test_a_damaged_member_gives_one_sentence(tree, tmp_path_factory, method, member, what):
    path, begins = zipped(tree, tmp_path_factory.mktemp("zip"), compression=method)
    content = bytearray(path.read_bytes())
    if what == "damaged":
        content[begins[member]] ^= 0x0F
    else:
        entry = content.index(b"PK\1\2")
        while not content[entry + 46 :].startswith(member.encode()):
            entry = content.index(b"PK\1\2", entry + 1)
        content[entry + 8] |= 1
        content[begins[member] - 30 - len(member) + 6] |= 1
    path.write_bytes(content)
    if member.startswith("meta"):
        with pytest.raises(DataError, match=r"meta/esc50.csv in .*esc.zip cannot be read \("):
            Esc50Layout(path)
    else:
        source = Esc50Layout(path)
        with pytest.raises(AudioError, match=r"^audio/2-8-B-1.wav: cannot be read \("):
            source.read(source.rows[1])
        assert source.read(source.rows[0]) == b"one"


def test_a_file_that_cannot_be_read_gives_the_reason(tree):
    (tree / "audio/2-8-B-1.wav").unlink()
    (tree / "audio/2-8-B-1.wav").mkdir()
    source = Esc50Layout(tree)
    with pytest.raises(AudioError, match="^audio/2-8-B-1.wav: is a folder, not an audio file$"):
        source.read(source.rows[1])
    replace_csv(tree, "dog", "d" * 200_000)
    with pytest.raises(DataError, match=r"meta/esc50.csv in .* cannot be read \(field larger than field limit"):
        Esc50Layout(tree)


@pytest.mark.parametrize("content", [b"longer", b"One"])
def test_content_makes_the_fingerprint(tree, content):
    before = Esc50Layout(tree).fingerprint
    (tree / "audio/1-7-A-0.wav").write_bytes(content)
    assert Esc50Layout(tree).fingerprint != before


@pytest.mark.parametrize("kind", ["folder", "zip", "zip without the flag of UTF-8"])
@pytest.mark.parametrize(("on_disk", "named"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFC", "NFC")])
def test_names_in_other_unicode_forms(tmp_path, kind, on_disk, named):
    names = ["1-Bär.wav", "tief/2-Möwe.wav"]
    root = tmp_path / "own"
    (root / "meta").mkdir(parents=True)
    rows = [f"{name},{i + 1},{i},{'Bär' if i else 'Möwe'}\n" for i, name in enumerate(names)]
    table = unicodedata.normalize(named, "filename,fold,target,category\n" + "".join(rows))
    (root / "meta/esc50.csv").write_text(table, encoding="utf-8")
    for name in names:
        path = root / "audio" / unicodedata.normalize(on_disk, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    if kind != "folder":
        archive = tmp_path / "own.zip"
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(root.rglob("*.*")):
                file.write(path, path.relative_to(tmp_path))
        if "without" in kind:
            content = bytearray(archive.read_bytes())
            for signature, offset in ((b"PK\3\4", 7), (b"PK\1\2", 9)):  # the upper byte of the flags
                place = content.find(signature)
                while place >= 0:
                    content[place + offset] &= ~0x08
                    place = content.find(signature, place + 1)
            archive.write_bytes(content)
        root = archive
    layout = Esc50Layout(root)
    assert [row.filename for row in layout.rows] == names and layout.categories == ("Möwe", "Bär")
    assert [layout.read(row) for row in layout.rows] == [name.encode() for name in names]
    for row in layout.rows:
        content = layout.locate(row)
        assert (content if isinstance(content, bytes) else content.read_bytes()) == row.filename.encode()
