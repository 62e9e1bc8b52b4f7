import math

import pytest

from llmbench.report import format as f


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.0123, "0.0123"),
        (4.2, "4.20"),
        (-4.2, "−4.20"),
        (9.999, "10.0"),
        (1234.4, "1234"),
        (1.25e-9, "1.25e-9"),
        (3e12, "3.00e12"),
        (math.nan, "NaN"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_number(value, text):
    assert f.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.001, "0.001"), (100.0, "100"), (0.25, "0.25"), (1e-9, "1e-9"), (20, "20"), (None, "–")]
)
def test_short_drops_zeros_at_the_end_only(value, text):
    assert f.short(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (17_240, "tokens/s", "17.2 k tokens/s"),
        (999.4, "tokens/s", "999 tokens/s"),
        (999.9, "tokens/s", "1.00 k tokens/s"),
        (3370, "J", "3.37 kJ"),
        (42, "J", "42.0 J"),
        (2.5e9, "", "2.50 G"),
        (math.nan, "J", "NaN"),
        (None, "J", "–"),
    ],
)
def test_si(value, unit, text):
    assert f.si(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(512, "512 B"), (1024, "1.00 KiB"), (1023.9 * 1024, "1.00 MiB"), (20.6 * 2**30, "20.6 GiB"), (2**50, "1024 TiB")],
)
def test_size(value, text):
    assert f.size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2e-6, "2.00 µs"),
        (0.0123, "12.3 ms"),
        (0.9999, "1.00 s"),
        (9.999, "10.0 s"),
        (59.96, "60.0 s"),
        (1122, "18 min 42 s"),
        (7265, "2 h 1 min"),
        (0, "0 s"),
        (None, "–"),
        (math.inf, "∞"),
    ],
)
def test_duration(seconds, text):
    assert f.duration(seconds) == text


def test_half_width_is_a_fraction_of_the_value_and_none_without_meaning():
    assert f.half_width(100, (98, 104)) == pytest.approx(0.03)
    assert f.half_width(0, (0, 1)) is None
    assert f.half_width(100, None) is None
    assert f.half_width(100, (math.nan, 104)) is None


def test_timestamp_is_utc_and_lets_nonsense_through():
    assert f.timestamp("2026-11-22T09:12:04+01:00") == "2026-11-22 08:12 UTC"
    assert f.timestamp("yesterday") == "yesterday"
    assert f.timestamp(None) == "–"


def test_invisible_characters_are_shown_as_escapes():
    assert f.printable("gpt\u202e\x00tiny\u200b") == "gpt\\u{202e}\\u{0}tiny\\u{200b}"
    assert f.printable("line\n\tnext ü 漢") == "line\n\tnext ü 漢"


def test_log_lines_lose_colours_overwritten_progress_and_length():
    assert f.plain_log("\x1b[31mred\x1b[0m") == "red"
    assert f.plain_log("10 %\r20 %\r30 %") == "30 %"
    assert f.plain_log("x" * 500) == "x" * 399 + "…"


def test_code_spans_escape_and_mark_only_pairs():
    assert str(f.code_spans("try `--set a<b` or `c")) == "try <code>--set a&lt;b</code> or `c"
    assert str(f.code_spans("time more: --set steps=372; or --a<b> -- c--d")) == (
        "time more: <code>--set steps=372</code>; or <code>--a</code>&lt;b&gt; -- c--d"
    )
    assert str(f.code_spans("plain & simple")) == "plain &amp; simple"


def test_flatten_and_plain():
    assert f.flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == [("a.b", 1), ("a.c", {}), ("d", [1])]
    assert [f.plain(value) for value in (True, None, 0.1, "x", [1, "a"])] == ["yes", "–", "0.1", "x", '[1, "a"]']
