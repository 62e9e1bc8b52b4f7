from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from statistics import median
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from llmbench.stats.blocks import enough, half_width
from llmbench.worker.loop import Sampling, Timing, Trainer, train

from .conftest import Events, execution

ONCE = Sampling(target=1.0, budget_seconds=0.0)  # the training's own steps, and no more
TICK = 2.0**-10  # sums of ticks are exact


@pytest.fixture(scope="module", autouse=True)
def quick_collection() -> Iterator[None]:
    """All of torch need not be looked through before each window."""
    gc.freeze()
    yield
    gc.unfreeze()


class Clock:
    """A device whose time passes only when a model says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.synchronized: list[float] = []

    def mark(self) -> float:
        return self.now

    def between(self, begin: float, end: float) -> float:
        return end - begin

    def synchronize(self) -> None:
        self.synchronized.append(self.now)


class Timed(nn.Module):
    """Takes a known time for each step; its loss is w · x."""

    def __init__(self, clock: Clock, seconds: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.clock = clock
        self.seconds = iter(seconds)

    def forward(self, x_2: Tensor) -> Tensor:
        self.clock.now += next(self.seconds)
        return (self.w * x_2).sum()


def trainer(model: nn.Module, batches: Tensor, *, clip_norm: float = 0.0, rates: list[float] | None = None) -> Trainer:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e9)
    return Trainer(execution(model), (batches,), optimizer, lambda step: rates[step] if rates else 0.5, clip_norm)


def timed(seconds: list[float], around: AbstractContextManager[Any] | None = None) -> tuple[Timing, Trainer, Clock]:
    clock = Clock()
    steps = trainer(Timed(clock, seconds), torch.ones(len(seconds), 2))
    return train(steps, clock, Events(), ONCE, around or nullcontext()), steps, clock


# The clock


@settings(max_examples=40)
@given(st.lists(st.integers(1, 2000), min_size=10, max_size=80))
def test_known_times_are_measured_exactly(ticks: list[int]) -> None:
    seconds = [TICK * count for count in ticks]
    timing, steps, _ = timed(seconds)
    first = timing.first_timed_step
    assert steps.done == len(seconds)
    assert timing.step_seconds == seconds[1:]
    assert timing.window_seconds == timing.phases["timed"] == sum(seconds[first:])
    assert 3 < first <= 1 + max(3, len(seconds) // 4)
    # The window begins as soon as the three last steps are not clearly faster than the three before, not sooner.
    steady = [median(seconds[n - 3 : n]) >= 0.95 * median(seconds[n - 6 : n - 3]) for n in range(7, first + 1)]
    assert not any(steady[:-1])
    assert first == 1 + max(3, len(seconds) // 4) or steady[-1]


def test_a_steady_case_warms_up_for_two_times_three_steps() -> None:
    assert timed([TICK] * 100)[0].first_timed_step == 7


def test_a_case_that_gets_faster_and_faster_warms_up_for_a_quarter_of_its_steps() -> None:
    assert timed([TICK * 0.9**step for step in range(100)])[0].first_timed_step == 26


@pytest.mark.parametrize(("fall", "first"), [(0.96, 7), (0.94, 26)])
def test_warm_up_ends_where_three_steps_are_no_longer_5_percent_faster(fall: float, first: int) -> None:
    assert timed([TICK * fall ** (step // 3) for step in range(100)])[0].first_timed_step == first


def test_the_number_of_steps_does_not_depend_on_their_times() -> None:
    for seconds in ([TICK] * 40, [TICK * (40 - step) for step in range(40)], [TICK, 1e6] * 20):
        timing, steps, _ = timed(seconds)
        assert steps.done == 40
        assert len(timing.step_seconds) == 39


def test_the_first_step_counts_as_compiling_only() -> None:
    timing, _, _ = timed([1e6] + [TICK] * 99)
    assert max(timing.step_seconds) == TICK
    assert set(timing.phases) == {"compile", "warmup", "timed"}


def test_the_window_is_waited_for_once_at_its_end() -> None:
    seconds = [TICK] * 100
    timing, _, clock = timed(seconds)
    begin = 1000.0 + sum(seconds[: timing.first_timed_step])
    assert [time for time in clock.synchronized if time > begin] == [1000.0 + sum(seconds)]


def test_the_phases_are_told_in_order() -> None:
    clock, events = Clock(), Events()
    train(trainer(Timed(clock, [TICK] * 10), torch.ones(10, 2)), clock, events, ONCE, nullcontext())
    assert events.phases == ["compile", "warmup", "timed"]


# The window


def test_the_instruments_are_read_at_both_edges_of_the_window() -> None:
    clock = Clock()
    steps = trainer(Timed(clock, [TICK] * 50), torch.ones(50, 2))
    read: list[tuple[int, float]] = []

    @contextmanager
    def instruments() -> Iterator[None]:
        read.append((steps.done, clock.now))
        yield
        read.append((steps.done, clock.now))

    timing = train(steps, clock, Events(), ONCE, instruments())
    first = timing.first_timed_step
    assert read == [(first, 1000.0 + TICK * first), (50, 1000.0 + TICK * 50)]
    assert clock.synchronized[-1] == clock.now


def test_garbage_is_not_collected_in_the_window() -> None:
    seen: list[bool] = []

    class Watched(Timed):
        def forward(self, x_2: Tensor) -> Tensor:
            seen.append(gc.isenabled())
            return super().forward(x_2)

    clock = Clock()
    timing = train(trainer(Watched(clock, [TICK] * 20), torch.ones(20, 2)), clock, Events(), ONCE, nullcontext())
    first = timing.first_timed_step
    assert seen == [True] * first + [False] * (20 - first)
    assert gc.isenabled()


def test_garbage_is_collected_again_after_a_case_that_raised() -> None:
    class Broken(Timed):
        def forward(self, x_2: Tensor) -> Tensor:
            if not gc.isenabled():
                raise RuntimeError("in the window")
            return super().forward(x_2)

    clock = Clock()
    with pytest.raises(RuntimeError, match="in the window"):
        train(trainer(Broken(clock, [TICK] * 20), torch.ones(20, 2)), clock, Events(), ONCE, nullcontext())
    assert gc.isenabled()

    @contextmanager
    def broken() -> Iterator[None]:
        yield
        raise OSError("the counter is gone")

    with pytest.raises(OSError, match="counter"):
        timed([TICK] * 10, broken())
    assert gc.isenabled()


def test_no_loss_is_read_from_the_device_while_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: Tensor, *arguments: Any) -> None:
        raise AssertionError("a loss was waited for")

    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "cpu", "__float__", "__bool__", "numpy"):
            patch.setattr(Tensor, name, forbidden)
        _, steps, _ = timed([TICK] * 20)
    assert torch.isfinite(steps.losses[:-1]).all()


# How long is timed


def sampled(
    seconds: list[float], steps: int, target: float, budget: float
) -> tuple[Timing, Trainer, nn.Module, list[float]]:
    """Trains ``steps`` steps and times on; the weights after the last of them are the last of the results."""
    clock = Clock()
    model = Timed(clock, seconds)
    schedule = [0.5] * steps + [0.0] * len(seconds)
    trained = trainer(model, torch.arange(2.0 * steps).view(steps, 2), rates=schedule)
    weights: list[float] = []

    @contextmanager
    def instruments() -> Iterator[None]:
        yield

    original = trained.step

    def step() -> None:
        original()
        if trained.done == steps:
            weights.extend(model.w.tolist())

    trained.step = step  # type: ignore[method-assign]
    timing = train(trained, clock, Events(), Sampling(target, budget), instruments())
    return timing, trained, model, weights


UNEVEN = [TICK * (1 + step % 7) for step in range(100_000)]


def test_even_steps_are_not_timed_beyond_the_training() -> None:
    timing, trained, _, _ = sampled([TICK] * 100, steps=40, target=0.02, budget=1e9)
    assert trained.done == 40
    assert timing.half_width == 0.0


def test_uneven_steps_are_timed_until_the_interval_is_narrow() -> None:
    timing, trained, _, _ = sampled(UNEVEN, steps=40, target=0.01, budget=1e9)
    window = timing.step_seconds[timing.first_timed_step - 1 :]
    assert trained.done > 40
    assert timing.half_width <= 0.01
    assert timing.half_width == half_width(window)
    assert timing.window_seconds == sum(window)
    assert enough(window, 0.01)
    assert not enough(window[: len(window) * 10 // 11], 0.01)  # it stops at the first look that finds enough


def test_the_budget_ends_the_window() -> None:
    timing, trained, _, _ = sampled(UNEVEN, steps=40, target=1e-6, budget=1000 * TICK)
    assert trained.done > 40
    assert timing.half_width > 1e-6
    assert timing.window_seconds == pytest.approx(1000 * TICK, rel=0.05)


def test_the_training_is_not_cut_short_by_the_budget() -> None:
    assert sampled(UNEVEN, steps=40, target=1e-6, budget=0.0)[1].done == 40


def test_steps_beyond_the_training_leave_weights_and_losses_as_they_are() -> None:
    _, trained, model, weights = sampled(UNEVEN, steps=40, target=0.01, budget=1e9)
    assert trained.done > 40
    assert model.w.tolist() == weights
    assert len(trained.losses) == 41


def test_all_ranks_do_as_the_first_one() -> None:
    asked: list[int] = []

    def agree(steps: int) -> int:
        """This rank would go on, the first one has had enough."""
        asked.append(steps)
        return 0 if steps > 1 else steps

    clock = Clock()
    trained = trainer(Timed(clock, UNEVEN), torch.ones(40, 2))
    train(trained, clock, Events(), Sampling(1e-9, 1e9, agree), nullcontext())
    assert asked[-1] > 1
    assert trained.done == 40


# The step


@pytest.mark.parametrize("count", [1, 2, 4])
def test_micro_batches_accumulate_to_the_gradient_of_the_whole_batch(count: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    x_SBI = torch.randn(2, 8, 3)

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x_BI: Tensor) -> Tensor:
            return self.inner(x_BI).square().mean()

    model(x_SBI[0]).square().mean().backward()
    whole = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trained = Trainer(execution(Loss(), micro_batches=count), (x_SBI,), optimizer, lambda step: 0.0, 0.0)
    trained.compute_gradients()
    for mine, theirs in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(mine.grad, theirs)
    assert trained.losses[0].item() == pytest.approx(model(x_SBI[0]).square().mean().item())


def test_the_gradients_of_the_first_two_steps_are_shown_before_they_are_clipped() -> None:
    clock = Clock()
    model = Timed(clock, [TICK] * 20)
    seen: list[tuple[int, list[float]]] = []
    trained = trainer(model, torch.full((20, 2), 6.0), clip_norm=1.0)
    train(trained, clock, Events(), ONCE, nullcontext(), lambda step: seen.append((step, model.w.grad.tolist())))
    assert seen == [(0, [6.0, 6.0]), (1, [6.0, 6.0])]


def test_each_step_takes_its_batch_and_keeps_its_loss() -> None:
    batches = torch.arange(20.0).view(10, 2)
    model = Timed(Clock(), [TICK] * 10)
    steps = trainer(model, batches, rates=[0.0] * 10)
    assert steps.losses.isnan().all()
    for _ in range(steps.steps):
        steps.step()
    assert steps.losses[:-1].tolist() == [float(3 * x + 4 * y) for x, y in batches.tolist()]
    assert steps.input_wait > 0
    assert model.w.grad is None


def test_the_rate_of_a_step_is_that_of_the_schedule() -> None:
    rates = [0.25, 0.0, 1.0]
    model = Timed(Clock(), [TICK] * 3)
    steps = trainer(model, torch.ones(3, 2), rates=rates)
    values = [model.w[0].item()]
    for _ in rates:
        steps.step()
        values.append(model.w[0].item())
    assert values == [3.0, 2.75, 2.75, 1.75]  # the gradient is one


@pytest.mark.parametrize(("clip_norm", "change"), [(0.0, 10.0), (100.0, 10.0), (2.0, 2.0)])
def test_the_gradient_is_clipped_to_its_largest_norm(clip_norm: float, change: float) -> None:
    model = Timed(Clock(), [TICK])
    before = model.w.detach().clone()
    trainer(model, torch.tensor([[6.0, 8.0]]), clip_norm=clip_norm, rates=[1.0]).step()
    moved = before - model.w.detach()
    assert moved.norm().item() == pytest.approx(change, rel=1e-5)
    assert (moved / moved.norm()).tolist() == pytest.approx([0.6, 0.8], rel=1e-5)


def test_only_the_forward_pass_runs_in_the_context() -> None:
    open_ = []
    backward = []

    @contextmanager
    def context() -> Iterator[None]:
        open_.append(True)
        yield
        open_.pop()

    class Watched(Timed):
        def forward(self, x_2: Tensor) -> Tensor:
            assert open_
            loss = super().forward(x_2)
            loss.register_hook(lambda gradient: backward.append(bool(open_)))
            return loss

    model = Watched(Clock(), [TICK])
    optimizer = torch.optim.SGD(model.parameters())
    Trainer(execution(model, context), (torch.ones(1, 2),), optimizer, lambda step: 0.1, 0.0).step()
    assert backward == [False]


def test_frozen_weights_are_not_trained() -> None:
    model = Timed(Clock(), [TICK])
    model.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    groups = trainer(model, torch.ones(1, 2)).parameters
    assert [[id(parameter) for parameter in group] for group in groups] == [[id(model.w)]]
