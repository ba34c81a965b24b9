"""When a recording was made, from its name or as given."""

from collections.abc import Callable
import contextlib
from datetime import UTC, datetime, timedelta, timezone
import os
import re

from esc_jax.errors import UserError

FROM_NAMES = "names"
NameReader = Callable[[str | os.PathLike[str]], datetime | None]
_CODES = ["%H", "%M", "%d", "%m", "%y"]  # of a format of names
# 20260511_053000, 20260511053000, 2026-05-11T05:30:00, 20260511-053000+0200, 20260511T053000Z, 20260511$053000,
# 20260511_053000(UTC+2), 2026-05-11-birdnet-05:30:00, 2026-05-11-birdnet-RTSP_1-05:30:00.
_TIME = re.compile(
    r"(?<!\d)(\d{4})[-_.]?(\d{2})[-_.]?(\d{2})"
    r"(?:[-_T $]+|-birdnet-(?:RTSP_\d+-)?|(?<=(?:19|20)\d{6}))(\d{2})[-_.:h]?(\d{2})"
    r"(?:[-_.:m]?(\d{2})(?:\.(\d{1,6})(?![gG][pP2]))?)?s?"  # .3gp and .3g2 are extensions
    r"(Z|[+-]\d{2}[:-]?\d{2}|[_ (]?(?:UTC|GMT)(?:[+-]\d{1,2}(?:[:-]?\d{2})?)?)?(?!\d)"
)
_OFFSET = re.compile(r"([+-])(\d{1,2})[:-]?(\d{2})?$")


class TimeError(UserError, ValueError):
    """A time that cannot be read. The message is one sentence."""


def time_in_name(path: str | os.PathLike[str]) -> datetime | None:
    """The time at which a recording begins, from its file name; None where there is none.

    The time has a time zone if the name has one ("Z", "+0200"). A name with several times has that of the first.
    """
    name, place = os.path.basename(os.fspath(path)), 0
    while match := _TIME.search(name, place):
        year, month, day, hour, minute = (int(part) for part in match.groups()[:5])
        second, fraction = int(match[6] or 0), int((match[7] or "").ljust(6, "0") or 0)
        try:
            return datetime(year, month, day, hour, minute, second, fraction, _zone(match[8]))
        except ValueError:  # a number that is no time; one can begin within it
            place = match.start() + 1
    return None


def _zone(text: str | None) -> timezone | None:
    if not text:
        return None
    match = _OFFSET.search(text)
    if not match:
        return UTC
    offset = timedelta(hours=int(match[2]), minutes=int(match[3] or 0))
    return timezone(-offset if match[1] == "-" else offset)


def reader(start: str) -> NameReader | None:
    """The function that reads times from file names for a value of --start; None for a value that is not on names.

    Args:
        start: "names" for `time_in_name`, which does not read years of two digits: 260511_053000 could be in 2026 or in
            2011. Or a format of `datetime.strptime`, such as "%y%m%d_%H%M%S".

    Raises:
        TimeError: a format that is not of year, month, day, hour, minute and perhaps second.
    """
    if start == FROM_NAMES:
        return time_in_name
    if "%" not in start:
        return None
    parts = re.split("(%.?)", start)
    codes = parts[1::2]
    if sorted("%y" if code == "%Y" else code for code in codes) not in (_CODES, sorted([*_CODES, "%S"])):
        raise TimeError(f"--start={start}: a format of names has %Y or %y, %m, %d, %H, %M and perhaps %S, once each")
    digits = {code: r"\d{4}" if code == "%Y" else r"\d{2}" for code in codes}
    pattern = re.compile(rf"(?<!\d){''.join(digits.get(part, re.escape(part)) for part in parts)}(?!\d)")

    def read(path: str | os.PathLike[str]) -> datetime | None:
        for match in pattern.finditer(os.path.basename(os.fspath(path))):
            with contextlib.suppress(ValueError):  # a number that is no time
                return datetime.strptime(match[0], start)
        return None

    return read


def parse_start(text: str) -> datetime | None:
    """The value of --start: a time in ISO 8601; None for a value that `reader` has a function for.

    Raises:
        TimeError: it is neither.
    """
    if reader(text):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise TimeError(
            f"{text!r} is neither {FROM_NAMES} nor a time such as 2026-05-11T05:30:00+02:00 nor a format of names such"
            " as %y%m%d_%H%M%S"
        ) from None


def check_end(file: str, start: datetime, duration_s: float) -> None:
    """Raises TimeError where a recording ends after the year 9999, the last that a `datetime` has."""
    try:
        start + timedelta(seconds=duration_s)
    except OverflowError:
        raise TimeError(f"{file}: a recording that begins at {start.isoformat()} ends after the year 9999") from None


def at(start: datetime, seconds: float) -> str:
    """A time in a recording that begins at `start`, in ISO 8601, to the millisecond, with the time zone of `start`."""
    return (start + timedelta(milliseconds=round(1000 * seconds))).isoformat(timespec="milliseconds")
