"""The compilation cache."""

import os
import time

from esc_jax.runtime import xla


def test_incomplete_entries_are_removed_from_the_compilation_cache(tmp_path):
    def entry(name, age, *suffixes):
        for suffix in suffixes:
            path = tmp_path / f"{name}-{suffix}"
            path.touch()
            os.utime(path, (time.time() - age,) * 2)

    entry("whole", 100, "cache", "atime")
    entry("killed", 100, "cache")
    entry("being-written", 0, "cache")
    xla._remove_incomplete(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["being-written-cache", "whole-atime", "whole-cache"]
    xla._remove_incomplete(tmp_path / "nothing")
