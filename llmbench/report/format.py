"""Numbers, times and untrusted text as people read them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from llmbench.report.untrusted import code_parts
from llmbench.report.untrusted import printable as printable
from llmbench.results.environment import flatten as flatten

NOTHING = "–"
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_SYMBOLS = frozenset({"J", "W", "FLOP"})  # written together with their prefix
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def one_line(text: str) -> str:
    """The same, on one line."""
    return printable(" ".join(text.split()))


def plain_log(line: str, longest: int = 400) -> str:
    """A log line without terminal colours, cut to ``longest`` characters."""
    return shorten(_ANSI.sub("", line).rsplit("\r", 1)[-1], longest)


def shorten(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def code_spans(text: str) -> Markup:
    """Escaped text with `backticked` words, and options such as ``--set steps=400``, as ``<code>``."""
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if is_code else escape(part) for part, is_code in code_parts(text)
    )


def unbroken(text: str) -> Markup:
    """Escaped text whose lines break between words only: never after the dashes of an option."""
    words = (printable(word) for word in text.split(" "))
    return Markup(" ").join(Markup("<span>{}</span>").format(word) if "-" in word else escape(word) for word in words)


def breakable(mode: str) -> Markup:
    """Escaped name of a mode whose lines break after a plus."""
    return Markup("+<wbr>").join(printable(part) for part in mode.split("+"))


def is_finite(value: float | None) -> bool:
    """Whether there is a number that a float can hold: not NaN, no infinity, no integer of hundreds of digits."""
    return value is not None and abs(value) <= sys.float_info.max


def number(value: float | None, digits: int = 3) -> str:
    """A number in ``digits`` significant digits: 0.0123, 4.20, 1230, 1.2e-9."""
    if value is None:
        return NOTHING
    if not is_finite(value):
        return "NaN" if value != value else ("∞" if value > 0 else "−∞")
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    text = f"{value:.{max(0, digits - 1 - power)}f}" if -4 <= power < 9 else f"{mantissa}e{power}"
    return text.replace("-", "−", 1) if value < 0 else text


def short(value: float | None, digits: int = 3) -> str:
    """As ``number``, without zeros at the end: for ticks and limits, which are exact."""
    mantissa, e, exponent = number(value, digits).partition("e")
    return (mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa) + e + exponent


def si(value: float | None, unit: str = "", digits: int = 3) -> str:
    """A number with a decimal prefix: ``17.2 k tokens/s``, ``3.4 kJ``."""
    if value is None or not is_finite(value):
        return number(value)
    factor, prefix = next(((f, p) for f, p in _PREFIXES if abs(value) >= f * (1 - 0.5 * 10**-digits)), (1.0, ""))
    unit = prefix + unit if unit in _SYMBOLS else f"{prefix} {unit}".strip()
    return f"{number(value / factor, digits)} {unit}".strip()


def times(ratio: float) -> str:
    """``1.42×``"""
    return f"{ratio:.2f}×" if 0.1 <= ratio < 9.995 else f"{number(ratio)}×"


def size(value: float | None) -> str:
    """Bytes as KiB, MiB, GiB, TiB."""
    if value is None or not is_finite(value):
        return number(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1023.5:
            return f"{value:.0f} B" if unit == "B" else f"{number(value)} {unit}"
        value /= 1024
    return f"{number(value)} TiB"


def amount(value: int | None) -> str:
    """A count of things: exact below a thousand, then ``562 k``."""
    return str(value) if value is not None and abs(value) < 1000 else si(value)


def duration(seconds: float | None) -> str:
    """Seconds as µs, ms, s, min or h, whichever is read most easily."""
    if seconds is None or not is_finite(seconds):
        return number(seconds)
    if seconds == 0:
        return "0 s"
    if abs(seconds) < 0.9995e-3:
        return f"{number(seconds * 1e6)} µs"
    if abs(seconds) < 0.9995:
        return f"{number(seconds * 1e3)} ms"
    if abs(seconds) < 99.95:
        return f"{seconds:.1f} s" if abs(seconds) >= 9.995 else f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def percent(fraction: float | None, digits: int = 2) -> str:
    if fraction is None or not is_finite(fraction):
        return number(fraction)
    return f"{number(100 * fraction, digits)} %"


def signed(fraction: float | None) -> str:
    """A change in whole percent: ``+12 %``, ``−3 %``, ``±0 %``."""
    if fraction is None or not is_finite(fraction):
        return number(fraction)
    return f"{round(100 * fraction):+d} %".replace("+0", "±0").replace("-", "−")


def signed_percent(fraction: float) -> str:
    """A change to a tenth of a percent: ``+1.4 %``, ``−6.1 %``, ``0.0 %``; of much more how many times it is."""
    if not is_finite(fraction):
        return number(fraction)
    if fraction >= 9.995:
        return times(1 + fraction)
    text = f"{100 * fraction:+.1f} %"
    return text[1:] if text[1:] == "0.0 %" else text.replace("-", "−")


def of_limit(value: float | None, limit: float) -> str:
    """What a check found as a share of its limit, ``18 %``; beyond the limit how many times it: ``8.3×``."""
    if value is None or not is_finite(value) or not limit or not is_finite(value / limit):
        return number(value)
    share = value / limit
    return percent(share) if share <= 1 else f"{number(share, 2)}×"


def half_width(value: float | None, interval: Sequence[float] | None) -> float | None:
    """Half the interval, as a fraction of the value; None where either is missing or means nothing."""
    if value is None or interval is None or not value or not all(map(is_finite, (value, *interval))):
        return None
    return abs(interval[1] - interval[0]) / 2 / abs(value)


def plus_minus(fraction: float | None) -> str:
    return NOTHING if fraction is None else f"±{percent(fraction)}"


def moment(text: str | None) -> datetime | None:
    """A time stamp of a record; None if it is missing or is none."""
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def timestamp(text: str | None) -> str:
    time = moment(text)
    try:
        return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if time else (text or NOTHING)
    except OverflowError:  # at the ends of the calendar
        return text or NOTHING


def count(amount: int, one: str, many: str | None = None) -> str:
    """``1 case``, ``2 cases``."""
    return f"{amount} {one if amount == 1 else many or one + 's'}"


def plain(value: Any) -> str:
    """A value of a record as text."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int):
        return shorten(str(value), 2000)
    if isinstance(value, float):
        return short(value, 6)
    return shorten(json.dumps(value, ensure_ascii=False), 2000)
