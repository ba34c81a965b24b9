"""The folder of a recorder: each recording is reported when it is finished, and again when it changes."""

from esc_jax.inference.watch import Watch


def test_a_recording_is_reported_once_when_it_has_not_changed_for_a_while(tmp_path):
    now = [0.0]
    watch = Watch(str(tmp_path), 2.0, lambda: now[0])
    path = tmp_path / "may/a.wav"
    path.parent.mkdir()

    def at(seconds):
        now[0] = seconds
        return watch.finished()

    assert at(0.0) == []
    path.write_bytes(b"1")
    (tmp_path / "empty.wav").touch()
    (tmp_path / ".hidden.wav").write_bytes(b"1")
    (tmp_path / "notes.txt").write_bytes(b"1")
    assert at(1.0) == []
    path.write_bytes(b"12")  # it grows
    assert at(2.0) == [] and at(3.5) == [] and at(4.0) == [str(path)] and at(9.0) == []
    path.write_bytes(b"123")
    assert at(10.0) == [] and at(12.0) == [str(path)] and at(20.0) == []
    path.unlink()
    assert at(30.0) == []
