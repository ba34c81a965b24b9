"""Times in the names of recordings."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from esc_jax.inference import times

EAST = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("20260511_053000.WAV", datetime(2026, 5, 11, 5, 30)),  # AudioMoth
        ("S4A01234_20260511_053000.wav", datetime(2026, 5, 11, 5, 30)),  # Song Meter
        ("2026-05-11T05:30:00.flac", datetime(2026, 5, 11, 5, 30)),
        ("2026-05-11-birdnet-05:30:00.mp3", datetime(2026, 5, 11, 5, 30)),  # BirdNET-Pi
        ("Frog-82-2026-05-11-birdnet-RTSP_1-05:30:00.mp3", datetime(2026, 5, 11, 5, 30)),
        ("2026-05-11-pond-05:30:00.mp3", None),  # date and time are apart
        ("260511_053000.wav", None),  # in 2026 or in 2011
        ("site_20260511T053000Z.wav", datetime(2026, 5, 11, 5, 30, tzinfo=UTC)),
        ("20260511_053000+0200.wav", datetime(2026, 5, 11, 5, 30, tzinfo=EAST)),
        ("20260511_053000-03:30.wav", datetime(2026, 5, 11, 5, 30, tzinfo=timezone(-timedelta(hours=3, minutes=30)))),
        ("2026-05-11 05.30.wav", datetime(2026, 5, 11, 5, 30)),
        ("20260511_053000.250.wav", datetime(2026, 5, 11, 5, 30, 0, 250_000)),
        ("20260511_053000.3gp", datetime(2026, 5, 11, 5, 30)),  # not 0.3 s later
        ("20260511_053000.500.3GP", datetime(2026, 5, 11, 5, 30, 0, 500_000)),
        ("20260511T0530.3g2", datetime(2026, 5, 11, 5, 30)),
        ("20261341_053000.wav", None),  # no such month
        ("99999999_20260511_053000.wav", datetime(2026, 5, 11, 5, 30)),
        ("120260511_0530001.wav", None),
        ("storm.ogg", None),
        ("20260511053000.wav", datetime(2026, 5, 11, 5, 30)),
        ("S4A1_20260511$053000.wav", datetime(2026, 5, 11, 5, 30)),
        ("ZOOM0001_2026-05-11T053000Z.wav", datetime(2026, 5, 11, 5, 30, tzinfo=UTC)),
        ("20260511_053000(UTC+2).wav", datetime(2026, 5, 11, 5, 30, tzinfo=EAST)),
        ("20260511_053000_UTC.wav", datetime(2026, 5, 11, 5, 30, tzinfo=UTC)),
        ("20260511_053000+02-00.wav", datetime(2026, 5, 11, 5, 30, tzinfo=EAST)),
        ("12345678901234.wav", None),
        ("20260511.wav", None),
    ],
)
def test_the_time_in_a_name(name, time):
    assert times.time_in_name(f"/some/20200101_000000/{name}") == time


@pytest.mark.parametrize(
    ("start", "name", "time"),
    [
        ("%y%m%d_%H%M%S", "260511_053000.wav", datetime(2026, 5, 11, 5, 30)),
        ("%y%m%d_%H%M%S", "ZOOM_1_260511_053007_tr1.wav", datetime(2026, 5, 11, 5, 30, 7)),
        ("%d%m%y_%H%M%S", "260511_053000.wav", datetime(2011, 5, 26, 5, 30)),
        ("%y%m%d_%H%M%S", "261341_053000 260511_053001.wav", datetime(2026, 5, 11, 5, 30, 1)),  # no such month
        ("%y%m%d_%H%M%S", "20260511_053000.wav", None),  # a part of a longer number
        ("%y%m%d_%H%M%S", "260511_0530001.wav", None),
        ("Voice %y%m%d %H.%M", "Voice 260511 05.30.m4a", datetime(2026, 5, 11, 5, 30)),
        ("Voice %y%m%d %H.%M", "Voice 260511 05x30.m4a", None),
        ("%d.%m.%Y %Hh%M", "pond 11.05.2026 05h30.mp3", datetime(2026, 5, 11, 5, 30)),
    ],
)
def test_the_time_in_a_name_of_a_given_format(start, name, time):
    assert times.parse_start(start) is None
    assert times.reader(start)(f"/some/200101_000000/{name}") == time


@pytest.mark.parametrize(
    "start", ["%y%m%d", "%y%Y%m%d%H%M", "%y%m%d%H%M%p", "%y%m%d%H%M%", "%y%m%m%d%H%M", "%y%m%d%H%M%S%S"]
)
def test_formats_that_are_no_time(start):
    with pytest.raises(times.TimeError, match=f"--start={start}: a format of names has %Y or %y, %m"):
        times.parse_start(start)


def test_the_value_of_the_option():
    assert times.parse_start("names") is None and times.reader("names") is times.time_in_name
    assert times.reader("2026-05-11T05:30+02:00") is None
    start = times.parse_start("2026-05-11T05:30+02:00")
    assert start == datetime(2026, 5, 11, 5, 30, tzinfo=EAST)
    assert times.at(start, 90.5) == "2026-05-11T05:31:30.500+02:00"
    assert times.at(datetime(2026, 12, 31, 23, 59), 60.0) == "2027-01-01T00:00:00.000"
    assert times.at(datetime(2026, 5, 11), 65.0399996) == "2026-05-11T00:01:05.040"  # rounded, as seconds are
    with pytest.raises(times.TimeError, match="'dawn' is neither names nor a time such as"):
        times.parse_start("dawn")


def test_a_recording_that_ends_after_the_last_year():
    start = datetime(9999, 12, 31, 23, 59, 58)
    times.check_end("a.wav", start, 1.0)
    with pytest.raises(times.TimeError, match="a.wav: a recording that begins at 9999-12-31T23:59:58 ends after"):
        times.check_end("a.wav", start, 3.0)
