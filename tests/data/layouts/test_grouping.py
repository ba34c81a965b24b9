"""Source recordings from file names."""

import random

import hypothesis
from hypothesis import strategies as st
import pytest

from esc_jax.data.layouts.grouping import group_by_name
from esc_jax.data.rows import DataError


def group(files: dict[str, str], pattern: str = "auto") -> dict[str, str]:
    """File → recording; `files` is name → classes, separated by spaces."""
    classes = sorted({name for labels in files.values() for name in labels.split()})
    targets = [tuple(sorted(classes.index(name) for name in labels.split())) for labels in files.values()]
    sources, _ = group_by_name(list(files), targets, pattern)
    return dict(zip(files, sources, strict=True))


TAKES = [
    "-01", "_2", ".3", " 4", "@5s", "@12.5s", "_take2", "-take-2", "_Take_B", "-part3", "_seg4", "_segment-5",
    " clip 6", "_chunk0007", "_t3", "_p4", "_B", "-c", " (2)", "_01_02", "-A-0", "_000-005", "_take2@5.0s",
]  # fmt: skip


@pytest.mark.parametrize("take", TAKES)
def test_takes_and_offsets_are_removed(take):
    """`garden` is the recording of two files; the other files of the class have other ones."""
    files = {f"rain/garden{take}.wav": "rain", "rain/garden-9.wav": "rain", "rain/roof.wav": "rain"}
    assert [*group(files).values()] == ["garden", "garden", "rain/roof"]


@pytest.mark.parametrize("end", ["", "-12345", "_100032", "-north", "_take", "_ab", "2", "-1.2.3.4s5", "_pa", "_to"])
def test_other_ends_of_names_are_kept(end):
    files = {f"garden{end}.wav": "rain", f"roof{end}.wav": "rain", "wind.wav": "wind"}
    assert group(files) == {f"garden{end}.wav": f"garden{end}", f"roof{end}.wav": f"roof{end}", "wind.wav": "wind"}


def test_numbered_files_of_a_class_are_recordings_of_their_own():
    files = {f"{name}/{name}_{i:03d}.wav": name for name in ("dog", "cat") for i in range(5)}
    assert group(files) == {name: name.removesuffix(".wav") for name in files}


def test_one_name_for_all_files_is_no_recording():
    files = {f"{name}/audio_{i}.wav": name for i, name in enumerate("abcdef")}
    assert len(set(group(files).values())) == len(files)


def test_takes_of_numbered_files_are_of_one_recording():
    files = {f"dog/dog_{i:03d}_{take}.wav": "dog" for i in range(3) for take in "ab"}
    assert group(files) == {name: name[4:11] for name in files}


def test_a_recording_counts_in_all_classes_and_folders():
    files = {"rain/2024/garden-01.wav": "rain", "wind/garden-02.wav": "wind", "wind/roof-1.wav": "wind"}
    files |= {"rain/garden.wav": "rain", "rain/yard.wav": "rain"}
    recordings = group(files)
    assert [recordings[name] for name in files] == ["garden", "garden", "roof", "garden", "rain/yard"]


def test_files_of_several_classes():
    files = {"garden-1.wav": "rain wind", "garden-2.wav": "", "street-1.wav": "wind", "street-2.wav": "rain"}
    assert [*group(files).values()] == ["garden", "garden", "street", "street"]


def test_one_track_in_two_formats_is_one_recording():
    assert [*group({"a/x.wav": "a", "a/x.flac": "a", "b/x.wav": "b"}).values()] == ["a/x", "a/x", "b/x"]


FILES = {"a/s1/mic-x.wav": "a", "a/s1/mic-y.wav": "a", "b/s2/mic-x.wav": "b", "b/s1/roof-x.wav": "b", "b/z.wav": "b"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"-[xy]$", ["mic", "mic", "mic", "roof", "b/z"]),  # the text before the match
        (r"^(\w+)-", ["mic", "mic", "mic", "roof", "b/z"]),  # the first group
        (r"(mic)|-", ["mic", "mic", "mic", "b/s1/roof-x", "b/z"]),  # a match without the group
        (r"/(s\d)/", ["s1", "s1", "s2", "s1", "b/z"]),  # with a slash: the whole path
        (r"/s\d/", ["a", "a", "b", "b", "b/z"]),
        ("", ["a/s1/mic-x", "a/s1/mic-y", "b/s2/mic-x", "b/s1/roof-x", "b/z"]),
    ],
)
def test_a_pattern(pattern, expected):
    assert [*group(FILES, pattern).values()] == expected


def test_a_pattern_that_finds_nothing_is_refused():
    with pytest.raises(DataError, match=r"finds a recording in none of the 5 file names, such as mic-x; its first"):
        group(FILES, "kitchen(.*)")


def test_what_is_logged(caplog):
    with caplog.at_level("INFO"):
        names = [f"rain/garden-{i}.wav" for i in range(6)] + ["rain/x.wav", "wind/y.wav"]
        _, grouping = group_by_name(names, [(0,)] * 7 + [(1,)], "auto")
    assert grouping.kind == "names" and grouping.description in caplog.text
    assert grouping.description == "3 source recordings of 8 files, by their names (data.group_pattern=auto)"
    (message,) = caplog.messages
    assert r"\d{1,4}" in message  # the pattern
    example = "garden: rain/garden-0.wav, rain/garden-1.wav, rain/garden-2.wav, rain/garden-3.wav and 2 more"
    assert f"; for example {example}" in message


def test_data_without_groups():
    for pattern, reason in (("auto", "no two file names have a recording in common"), ("", "group_pattern is empty")):
        sources, grouping = group_by_name(["a/x.wav", "b/y.wav"], [(0,), (1,)], pattern)
        assert sources == ["a/x", "b/y"] and grouping.kind == "none" and reason in grouping.description


NAMES = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.sampled_from(["x", "yard", "rain_1"]), st.lists(st.sampled_from(TAKES), max_size=2)
    ),
    min_size=1, max_size=20, unique_by=str,
)  # fmt: skip


@hypothesis.given(names=NAMES, seed=st.integers(0, 99))
def test_groups_do_not_depend_on_the_order(names, seed):
    files = {f"{folder}/{stem}{''.join(takes)}.wav": folder for folder, stem, takes in names}
    expected = group(files)
    shuffled = random.Random(seed).sample(list(files.items()), len(files))
    assert group(dict(shuffled)) == expected
    for name, recording in expected.items():
        path = name.removesuffix(".wav")
        assert path == recording or path.rpartition("/")[2].startswith(recording)
