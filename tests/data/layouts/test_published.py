"""UrbanSound8K and FSD50K in miniature, in their official layouts."""

import csv
import shutil

import pytest

from esc_jax.data.layouts.fsd50k import Fsd50kLayout
from esc_jax.data.layouts.registry import open_source
from esc_jax.data.layouts.urbansound8k import UrbanSound8kLayout
from esc_jax.data.rows import DataError

URBAN = (
    "air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling", "engine_idling", "gun_shot",
    "jackhammer", "siren", "street_music",
)  # fmt: skip
URBAN_HEADER = ["slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class"]
VOCABULARY = ["Acoustic_guitar", "Bark", "Dog", "Zipper_(clothing)"]


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def urban(tmp_path):
    """Ten folds, ten classes, two clips of a recording in each; class i is first seen in row 10 - i."""
    root, rows = tmp_path / "UrbanSound8K", [URBAN_HEADER]
    for fold in range(1, 11):
        for target in range(9, -1, -1):
            for take in range(2):
                name = f"{1000 + fold * 10 + target}-{target}-0-{take}.wav"
                rows.append([name, 1000 + fold * 10 + target, 0, 4, 1, fold, target, URBAN[target]])
                path = root / f"audio/fold{fold}" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(name.encode())
    table(root / "metadata/UrbanSound8K.csv", rows)
    (root / "FREESOUNDCREDITS.txt").touch()
    return root


@pytest.mark.parametrize("inside", [False, True])
def test_urbansound8k(urban, inside):
    path = urban.parent if inside else urban
    layout = open_source(path, {"name": "urbansound8k"})
    assert isinstance(open_source(path), UrbanSound8kLayout) and layout.path == urban
    assert layout.categories == URBAN and layout.task == "single_label" and len(layout.rows) == 200
    assert layout.grouping.kind == "column" and not layout.grouping.assigned_folds
    assert layout.grouping.description == "100 source recordings, from column fsID"
    for row in layout.rows:
        folder, name = row.filename.split("/")
        recording, target, *_ = name.split("-")
        assert (f"fold{row.fold}", row.src_file, row.targets) == (folder, recording, (int(target),))
        assert layout.read(row) == name.encode()


def test_what_is_wrong_with_urbansound8k(urban):
    (urban / "audio/fold3/1034-4-0-1.wav").unlink()
    shutil.rmtree(urban / "audio/fold10")
    with pytest.raises(
        DataError, match=r"21 of the 200 files .* \(the first: line \d+, fold3/1034-4-0-1.wav\); .*/audio$"
    ):
        UrbanSound8kLayout(urban)
    path = urban / "metadata/UrbanSound8K.csv"
    path.write_text(path.read_text().replace("fsID", "id"))
    with pytest.raises(DataError, match=r"UrbanSound8K.csv has no column fsID \(it has slice_file_name, id"):
        UrbanSound8kLayout(urban)
    with pytest.raises(DataError, match="has no metadata/UrbanSound8K.csv, so it is not in the layout of UrbanSound8K"):
        UrbanSound8kLayout(urban / "audio")


@pytest.fixture
def fsd(tmp_path):
    root = tmp_path / "FSD50K"
    truth = root / "FSD50K.ground_truth"
    dev = [
        ("64760", "Acoustic_guitar", "train"), ("16399", "Bark,Dog", "train"), ("16401", "Dog", "val"),
        ("16402", "Zipper_(clothing),Dog", "val"),
    ]  # fmt: skip
    evaluation = [("37199", "Bark,Dog"), ("175151", "Zipper_(clothing)")]
    table(
        truth / "dev.csv",
        [["fname", "labels", "mids", "split"], *([name, labels, "/m/x", split] for name, labels, split in dev)],
    )
    table(truth / "eval.csv", [["fname", "labels", "mids"], *([name, labels, "/m/x"] for name, labels in evaluation)])
    table(truth / "vocabulary.csv", [[i, name, "/m/x"] for i, name in enumerate(VOCABULARY)])
    for part, names in (("dev", [n for n, *_ in dev]), ("eval", [n for n, _ in evaluation])):
        (root / f"FSD50K.{part}_audio").mkdir()
        for name in names:
            (root / f"FSD50K.{part}_audio/{name}.wav").write_bytes(name.encode())
    return root


def test_fsd50k(fsd, caplog):
    with caplog.at_level("INFO"):
        layout = open_source(fsd, {"name": "fsd50k"})
    assert isinstance(open_source(fsd.parent), Fsd50kLayout)
    assert layout.categories == tuple(VOCABULARY) and layout.task == "multi_label"
    assert layout.grouping.kind == "column" and not layout.grouping.assigned_folds
    assert [(row.filename, row.fold, row.targets, row.src_file) for row in layout.rows] == [
        ("FSD50K.dev_audio/16399.wav", 2, (1, 2), "16399"),
        ("FSD50K.dev_audio/16401.wav", 1, (2,), "16401"),
        ("FSD50K.dev_audio/16402.wav", 1, (2, 3), "16402"),
        ("FSD50K.dev_audio/64760.wav", 2, (0,), "64760"),
        ("FSD50K.eval_audio/175151.wav", 3, (3,), "175151"),
        ("FSD50K.eval_audio/37199.wav", 3, (1, 2), "37199"),
    ]
    assert layout.read(layout.rows[0]) == b"16399"
    assert "val is fold 1, train is fold 2" in caplog.text and "eval is fold 3" in caplog.text


def test_parts_on_another_disk(fsd, tmp_path):
    before = Fsd50kLayout(fsd).fingerprint
    (fsd / "FSD50K.dev_audio").rename(tmp_path / "disk")
    (fsd / "FSD50K.dev_audio").symlink_to(tmp_path / "disk")
    assert Fsd50kLayout(fsd).fingerprint == before


def test_what_is_wrong_with_fsd50k(fsd):
    truth = fsd / "FSD50K.ground_truth"
    (fsd / "FSD50K.eval_audio/37199.wav").unlink()
    with pytest.raises(
        DataError, match=r"1 of the 2 files named in .*eval.csv are not there \(the first: line 2, 37199\)"
    ):
        Fsd50kLayout(fsd)
    text = (truth / "dev.csv").read_text()
    (truth / "dev.csv").write_text(text.replace("Bark,Dog", "Bark,Wolf"))
    with pytest.raises(DataError, match=r"dev.csv, line 3: Wolf is not in vocabulary.csv"):
        Fsd50kLayout(fsd)
    (truth / "dev.csv").write_text(text.replace("split", "part"))
    with pytest.raises(DataError, match=r"dev.csv has no column split \(it has fname, labels, mids, part\)"):
        Fsd50kLayout(fsd)
    (truth / "vocabulary.csv").write_text("Bark,0\n")
    with pytest.raises(DataError, match=r"vocabulary.csv cannot be read: expected lines of index, name and id"):
        Fsd50kLayout(fsd)
    with pytest.raises(DataError, match="has no FSD50K.ground_truth/dev.csv, so it is not in the layout of FSD50K"):
        Fsd50kLayout(truth)
