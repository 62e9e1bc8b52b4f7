"""How often the gate errs, and what it sees: recorded sessions of identical code, judged by the product's own code.

    python suites/gate_power.py [DIR] [--draws N] [--seed S] [--json]

DIR holds recordings as ``recorded_sessions.py`` describes them; without it, the folder that LLMBENCH_REGRESSION_DATA
names, or ../shared/data/regression beside the repository. A draw puts the sessions in a random order (and again, where
there are fewer than the last look takes), swaps the sides of each by the toss of a coin, and makes the candidate slower
by an exact factor; then they are judged one after the other as ``llmbench ab`` does. The table beside it holds the
rules in use today, on the fresh processes of the same folder. The last line is the result as JSON; with ``--json`` it
is the only one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from recorded_sessions import Process, fresh_processes, lockstep_sessions, session_seconds

from llmbench.errors import UserError
from llmbench.results.ab import Round, Turn
from llmbench.stats.ab import look
from llmbench.stats.lockstep import METRICS, Difference, Gate, Verdict, differences

SLOWDOWNS = (0, 2, 5, 10)  # percent
PROCESSES = (5, 10, 20)  # of each side, for the rules in use today
RULE_DRAWS = 200  # at most: s.e. 0.035
RARE, RARE_FACTOR = 10, 1.5  # every tenth step takes half as long again
VARIABLE = "LLMBENCH_REGRESSION_DATA"
DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data" / "regression"

Session = Mapping[str, float]  # what `differences` says of it


@dataclass(frozen=True)
class Outcome:
    """Of many draws: how often each verdict came, and after how many sessions on average."""

    shares: dict[Verdict, float]
    sessions: float

    def share(self, verdict: Verdict) -> float:
        return self.shares.get(verdict, 0.0)


def case_verdict(sessions: Sequence[Session], gate: Gate) -> tuple[Verdict, int]:
    """The verdict of one case, and after how many of the sessions it was in.

    Args:
        sessions: as many as the last look takes.
    """
    times, _, _ = look(sessions, gate)
    return worst(list(times.values())), max(found.sessions for found in times.values())


def worst(found: Sequence[Difference]) -> Verdict:
    """Of the metrics of a case."""
    order: tuple[Verdict, ...] = ("slower", "inconclusive", "same", "faster")
    return min((one.verdict for one in found), key=order.index)


def shuffled(count: int, most: int, rng: random.Random) -> list[int]:
    """Places of ``most`` of ``count`` sessions: all in random order, and again, until there are enough."""
    places: list[int] = []
    while len(places) < most:
        places += rng.sample(range(count), min(count, most - len(places)))
    return places


def replay(
    sessions: Sequence[Session], slowdown: float, draws: int, rng: random.Random, replacement: bool = False
) -> Outcome:
    """Verdicts on draws from these sessions.

    Args:
        sessions: of identical code.
        slowdown: of the candidate, in percent; exact, since a factor is a term of the logarithm.
        replacement: draw each anew from all of them.
    """
    gate, counts, needed = Gate(), dict[Verdict, int](), 0
    most = gate.looks[-1]
    for _ in range(draws):
        places = rng.choices(range(len(sessions)), k=most) if replacement else shuffled(len(sessions), most, rng)
        drawn = [sessions[place] for place in places]
        signs = [rng.choice((-1, 1)) for _ in drawn]
        shift = math.log1p(slowdown / 100)
        changed = [
            {metric: sign * session[metric] + shift for metric in METRICS}
            for sign, session in zip(signs, drawn, strict=True)
        ]
        verdict, used = case_verdict(changed, gate)
        counts[verdict] = counts.get(verdict, 0) + 1
        needed += used
    return Outcome({verdict: count / draws for verdict, count in counts.items()}, needed / draws)


def rare(rounds: Sequence[Round], *, costs_cpu: bool, waits_known: bool) -> list[Round]:
    """Every tenth step of the candidate takes half as long again.

    Args:
        costs_cpu: computing; else it only waits.
        waits_known: as if the kernel had told how long a ready process waited for a CPU, which for one thread that does
            not sleep is all of the wall time that it was not on one.
    """
    changed, step = [], 0
    for one in rounds:
        extra = []
        for seconds in one.cand.steps:
            extra.append(seconds * (RARE_FACTOR - 1) if step % RARE == 0 else 0.0)
            step += 1
        added = math.fsum(extra)
        steps = [seconds + more for seconds, more in zip(one.cand.steps, extra, strict=True)]
        share = added / one.cand.wall if costs_cpu else 0.0
        turn = Turn(steps=steps, wall=one.cand.wall + added, cpu=(one.cand.cpu or 0.0) * (1 + share))
        base = one.base
        if waits_known:
            turn.waited = _off_cpu(one.cand) * (1 + share)
            base = base.model_copy(update={"waited": _off_cpu(base)})
        changed.append(Round(first=one.first, base=base, cand=turn))
    return changed


def _off_cpu(turn: Turn) -> float:
    return max(turn.wall - (turn.cpu or turn.wall), 0.0)


def product_table(recorded: Sequence[Sequence[Round]], draws: int, rng: random.Random) -> dict[int, Outcome]:
    """Prints how the gate does on all sessions, on parts of them, and on slow steps that are rare."""
    sessions = [differences(rounds) for rounds in recorded]
    half = len(sessions) // 2
    parts: list[tuple[str, Sequence[Session], bool]] = [
        ("all sessions", sessions, False),
        ("drawn with replacement", sessions, True),
        ("first half", sessions[:half], False),
        ("second half", sessions[half:], False),
        ("every other", sessions[::2], False),
        ("the others", sessions[1::2], False),
    ]
    print(f"{'llmbench ab':<24}{'n':>4}  " + "  ".join(f"{f'{slowdown} %':^27}" for slowdown in SLOWDOWNS))
    print(f"{'':<30}" + "  ".join(f"{'slower   same inconcl  sess':>27}" for _ in SLOWDOWNS))
    whole: dict[int, Outcome] = {}
    for place, (name, part, replacement) in enumerate(parts):
        if len(part) < Gate().looks[0]:
            print(f"{name:<24}{len(part):>4}  too few sessions")
            continue
        found = {slowdown: replay(part, slowdown, draws, rng, replacement) for slowdown in SLOWDOWNS}
        whole = whole or found
        cells = [
            f"{one.share('slower'):6.3f} {one.share('same'):6.3f} {one.share('inconclusive'):7.3f} {one.sessions:5.2f}"
            for one in found.values()
        ]
        print(f"{name:<24}{len(part):>4}  " + "  ".join(cells))
        if not place and any(one.share("faster") for one in found.values()):
            print(f"{'':<30}faster: " + ", ".join(f"{one.share('faster'):.3f}" for one in found.values()))
    return whole


def rare_table(recorded: Sequence[Sequence[Round]], draws: int, rng: random.Random) -> None:
    """Prints what the gate says where every tenth step of the candidate takes half as long again."""
    print(
        f"\nevery {RARE}th step takes {RARE_FACTOR} times as long (+{100 * (RARE_FACTOR - 1) / RARE:.0f} % on average)"
    )
    kinds = (
        ("computing", True, False),
        ("waiting, recorded without the kernel's waits", False, False),
        ("waiting, with them as `ab` records them (reconstructed)", False, True),
    )
    for name, costs_cpu, waits_known in kinds:
        slow = [differences(rare(rounds, costs_cpu=costs_cpu, waits_known=waits_known)) for rounds in recorded]
        plain = [differences(rounds) for rounds in recorded]
        swapped = [
            {metric: 2 * (one[metric] - before[metric]) - one[metric] for metric in METRICS}
            for one, before in zip(slow, plain, strict=True)
        ]
        caught = _two_sided(slow, swapped, draws, rng)
        print(f"  {name:<58}slower {caught:6.3f}")


def _two_sided(slow: Sequence[Session], swapped: Sequence[Session], draws: int, rng: random.Random) -> float:
    """Share called slower where each session is drawn with its sides as recorded, or swapped before the change."""
    gate = Gate()
    caught = 0
    for _ in range(draws):
        drawn = [rng.choice((slow, swapped))[place] for place in shuffled(len(slow), gate.looks[-1], rng)]
        caught += case_verdict(drawn, gate)[0] == "slower"
    return caught / draws


def classic_table(processes: Sequence[Process], draws: int, seed: int) -> None:
    """Prints what the rules in use today say of the fresh processes."""
    import numpy as np
    from classic_rules import RULES, Rule, Side

    arrays = [np.array(process.steps) for process in processes]
    blocks: dict[int, list[int]] = {}
    for place, process in enumerate(processes):
        blocks.setdefault(process.block, []).append(place)
    pairs = [(places[0], places[1]) for places in blocks.values() if len(places) > 1]
    cost = sum(process.cost for process in processes) / len(processes)

    def stored(number: int, rng: np.random.Generator) -> tuple[Side, Side]:
        """So many processes in a row, then as many more, or the other way round."""
        start = int(rng.integers(0, len(arrays) - 2 * number + 1))
        one, other = arrays[start : start + number], arrays[start + number : start + 2 * number]
        return (one, other) if rng.integers(2) else (other, one)

    def in_turns(number: int, rng: np.random.Generator) -> tuple[Side, Side]:
        """Two processes of each of so many blocks; which is the candidate's, by the toss of a coin."""
        chosen = [pairs[place] for place in rng.permutation(len(pairs))[:number]]
        chosen = [pair if rng.integers(2) else pair[::-1] for pair in chosen]
        return [arrays[one] for one, _ in chosen], [arrays[other] for _, other in chosen]

    def share(
        rule: Rule, number: int, slowdown: float, sides: Callable[[int, np.random.Generator], tuple[Side, Side]]
    ) -> float:
        rng = np.random.default_rng([seed, number])
        called = 0
        for _ in range(draws):
            base, cand = sides(number, rng)
            called += rule.slower(base, [steps * (1 + slowdown / 100) for steps in cand], rng)
        return called / draws

    print(f"\nrules in use, on {len(processes)} fresh processes of the same code; s.e. up to {0.5 / draws**0.5:.3f}")
    print(f"{'':<34}{'false alarm':^17}{'power, in turns':^23}")
    print(f"{'rule':<34}{'stored':>8} {'in turns':>8}  " + " ".join(f"{f'{p} %':>6}" for p in SLOWDOWNS[1:]))
    for number in PROCESSES:
        if number > len(pairs) or 2 * number > len(arrays):
            print(f"n = {number} of each side: not so many were recorded ({len(pairs)} blocks with two processes)")
            continue
        print(f"n = {number} of each side: {2 * number} processes, {2 * number * cost:.0f} s")
        for rule in RULES:
            before = "–" if rule.paired else f"{share(rule, number, 0, stored):.3f}"
            turns = [share(rule, number, slowdown, in_turns) for slowdown in SLOWDOWNS]
            print(f"  {rule.name:<32}{before:>8} {turns[0]:8.3f}  " + " ".join(f"{one:6.3f}" for one in turns[1:]))


def result(found: Mapping[int, Outcome]) -> str:
    """The line for programs."""
    return json.dumps(
        {
            "false_alarm": found[0].share("slower"),
            "power": {str(slowdown): found[slowdown].share("slower") for slowdown in SLOWDOWNS[1:]},
            "mean_sessions_aa": found[0].sessions,
        }
    )


def folder_of(argument: Path | None) -> Path:
    """Where the recordings lie.

    Raises:
        UserError: nowhere.
    """
    if argument is not None:
        return argument
    if named := os.environ.get(VARIABLE):
        return Path(named)
    if DEFAULT.is_dir():
        return DEFAULT
    raise UserError(
        f"no recordings: {DEFAULT} does not exist", f"name their folder: nox -s gate-power -- DIR, or {VARIABLE}=DIR"
    )


def show(folder: Path, draws: int, seed: int, *, only_json: bool) -> None:
    recorded = lockstep_sessions(folder)
    rng = random.Random(seed)
    if only_json:
        sessions = [differences(rounds) for rounds in recorded]
        print(result({slowdown: replay(sessions, slowdown, draws, rng) for slowdown in SLOWDOWNS}))
        return
    seconds = session_seconds(folder)
    cost = "" if seconds is None else f", {seconds:.1f} s each"
    print(f"{folder}: {len(recorded)} lock-step sessions of identical code{cost}; {draws} draws, seed {seed}\n")
    found = product_table(recorded, draws, rng)
    if seconds is not None:
        print(f"identical code: {found[0].sessions:.2f} sessions, {found[0].sessions * seconds:.0f} s on average")
    rare_table(recorded, draws, rng)
    missing = [name for name in ("runs.csv", "steps.csv") if not (folder / name).exists()]
    if missing:
        print(f"\nwithout the rules in use: no {' and no '.join(missing)}, which hold the fresh processes they take")
    else:
        classic_table(fresh_processes(folder), min(draws, RULE_DRAWS), seed)
    print()
    print(result(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR")
    parser.add_argument("--draws", type=int, default=4000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--json", action="store_true", help="the last line only")
    options = parser.parse_args()
    if options.draws < 1:
        parser.error("--draws: one or more")
    try:
        show(folder_of(options.folder), options.draws, options.seed, only_json=options.json)
    except UserError as error:
        print(f"error: {error.message}" + (f"\n{error.hint}" if error.hint else ""), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
