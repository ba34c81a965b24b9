"""Passages as a text table."""

from esc_jax.inference import matches
from esc_jax.inference.index import Match


def test_names_in_the_table_have_no_control_characters():
    found = [Match("/a/new\nline.wav", 5.0, 10.0, 0.98765), Match("/a/\x1b[31mred.wav", 0.0, 5.0, 0.5)]
    assert matches.table(found, 9).splitlines() == [
        "2 of 9 passages",
        "    1  0.988    0:05.0 –   0:10.0   /a/new line.wav",
        "    2  0.500    0:00.0 –   0:05.0   /a/\\x1b[31mred.wav",
    ]
