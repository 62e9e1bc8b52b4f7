"""Who starts first in a session of an A/B comparison."""

from __future__ import annotations

from llmbench.launch.sessions import start_order


def test_each_two_sessions_start_in_both_orders_and_the_first_is_tossed() -> None:
    orders = [start_order("1 gpt-tiny/eager/ws1", session) for session in range(40)]
    assert all(set(order) == {"base", "cand"} for order in orders)
    assert all(one == other[::-1] for one, other in zip(orders[::2], orders[1::2], strict=True))
    assert 4 < sum(order[0] == "base" for order in orders[::2]) < 16


def test_the_seed_decides() -> None:
    def of(seed: str) -> list[list[str]]:
        return [list(start_order(seed, session)) for session in range(40)]

    assert of("1 a") == of("1 a")
    assert of("1 a") != of("2 a")
