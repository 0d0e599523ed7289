"""Latency is followed quickly, noise is not, and without news the node gets another chance."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from mesh.control.estimate import Ending, Sample, Window, quantile, summarise
from mesh.control.latency import Latency, follow

_TICK_S = 0.2


def feed(
    before: Latency, latency_s: float, seconds: float, *, refused: int = 0, failed: int = 0, each: int = 10
) -> Latency:
    """Follows a node that answers in this time, `each` answers a tick."""
    window = Window()
    now_s = before.at_s
    for _ in range(round(seconds / _TICK_S)):
        now_s += _TICK_S
        window.add([Sample(now_s, latency_s, Ending.ANSWERED)] * each)
        window.add([Sample(now_s, 0.001, Ending.REFUSED)] * refused)
        window.add([Sample(now_s, 0.001, Ending.FAILED)] * failed)
        before = follow(before, window.look(now_s), now_s)
    return before


def test_a_step_to_the_worse_is_seen_within_half_a_second() -> None:
    before = feed(Latency.assume(0.02, 0.0), 0.010, 5)
    window = Window()
    window.add([Sample(5.2, 0.080, Ending.ANSWERED)] * 10)
    seen = follow(before, window.look(5.2), 5.2)
    assert feed(seen, 0.080, 0.4).settled_s > 0.060


def test_a_step_to_the_better_is_seen_within_two_seconds() -> None:
    slow = feed(Latency.assume(0.02, 0.0), 0.080, 5)
    assert feed(slow, 0.010, 2).settled_s < 0.013


def test_noise_below_the_dead_band_changes_nothing() -> None:
    steady = feed(Latency.assume(0.02, 0.0), 0.020, 3)
    for latency_s in (0.022, 0.019, 0.021, 0.0185):
        steady_now = feed(steady, latency_s, 1)
        assert steady_now.settled_s == steady.settled_s
        steady = steady_now


def test_refusals_make_a_node_as_slow_as_it_is_useless() -> None:
    fair = feed(Latency.assume(0.02, 0.0), 0.010, 3)
    half = feed(fair, 0.010, 3, refused=10)
    none = feed(fair, 0.010, 3, refused=10, each=0)
    assert 0.015 < half.settled_s < 0.025
    assert none.settled_s > 0.08


def test_a_node_that_fails_most_of_what_it_gets_is_broken_until_it_answers_again() -> None:
    fair = feed(Latency.assume(0.02, 0.0), 0.010, 3)
    assert not feed(fair, 0.010, 3, refused=10, each=0).fails, "it is full"
    assert not feed(fair, 0.010, 3, failed=5).fails
    broken = feed(fair, 0.010, 3, failed=10, each=0)
    assert (broken.fails, broken.failed_ratio) == (True, 1.0)
    assert broken.settled_s > 0.08
    silent = follow(broken, None, broken.at_s + _TICK_S)
    assert silent.fails, "no news is no recovery"
    assert not feed(silent, 0.010, 1, each=1).fails


def test_without_news_the_node_returns_to_the_best_it_has_shown() -> None:
    good = feed(Latency.assume(0.02, 0.0), 0.010, 5)
    bad = feed(good, 0.200, 2)
    assert bad.worsened
    quiet = bad
    for _ in range(round(30 / _TICK_S)):
        quiet = follow(quiet, None, quiet.at_s + _TICK_S)
    assert quiet.settled_s < 1.3 * good.settled_s


def test_a_node_that_stays_slow_is_one_day_no_longer_called_worse() -> None:
    slow = feed(feed(Latency.assume(0.02, 0.0), 0.010, 2), 0.040, 400)
    assert not slow.worsened


def test_few_answers_do_not_pretend_to_know_the_tail() -> None:
    samples = [Sample(0.9, 0.010, Ending.ANSWERED), Sample(0.95, 0.100, Ending.ANSWERED)]
    seen = summarise(samples, 1.0)
    assert seen is not None
    assert seen.p95_s < 0.075


def test_older_answers_help_out_when_there_are_few_new_ones() -> None:
    window = Window()
    window.add(Sample(t, 0.010, Ending.ANSWERED) for t in (1.0, 2.0, 3.0, 4.0, 5.0))
    seen = window.look(8.0)
    assert seen is not None
    assert (seen.timed_count, seen.rate) == (4, 0.0)
    assert window.look(60.0) is None


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_lies_within_its_values(values: list[float], q: float) -> None:
    assert min(values) <= quantile(sorted(values), q) <= max(values) * (1 + 1e-12)


@given(st.lists(st.tuples(st.floats(1e-5, 10), st.sampled_from(Ending)), max_size=60))
def test_whatever_is_seen_the_belief_stays_finite_and_positive(tries: list[tuple[float, Ending]]) -> None:
    window, belief = Window(), Latency.assume(0.02, 0.0)
    for i, (latency_s, ending) in enumerate(tries):
        now_s = (i + 1) * _TICK_S
        window.add([Sample(now_s, latency_s, ending)])
        belief = follow(belief, window.look(now_s), now_s)
        for value in (belief.smoothed_s, belief.settled_s, belief.best_s):
            assert math.isfinite(value)
            assert value > 0
        assert belief.best_s <= belief.smoothed_s * (1 + 1e-9)
