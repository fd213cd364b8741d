"""The run-time context: what its windows of frames say, against what is plain."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sniffing_kit import boxes_at, observe_all, result_of

from vdag.control.sniffing import Sniffer
from vdag.control.sniffing.shifts import FEW, RUN, Shift
from vdag.control.sniffing.sightings import MAX_TIME_S, Objects, Sighting, TaskSighting
from vdag.control.sniffing.window import Window, quantile
from vdag.results import TaskParts

# Windows.


times = st.floats(0, 10)
parts = st.builds(TaskSighting, st.sampled_from(["a", "b"]), times, times, times,
                  st.sampled_from([0, 0, 100, 2**32]), st.sampled_from([1, 1, 2, 16]))  # fmt: skip
objects = st.one_of(
    st.none(),
    st.builds(Objects, st.integers(0, 30), st.one_of(st.none(), st.floats(0, 1e6))),
)


@st.composite
def rows(draw: st.DrawFn) -> list[Sighting]:
    """Frames whose numbers, plans and moments do not fall."""
    at_s, seq, plan, found = 0.0, -1, 1, []
    for _ in range(draw(st.integers(0, 25))):
        at_s += draw(st.sampled_from([0.0, 0.1, 0.5, 2.0]))
        seq += draw(st.sampled_from([1, 1, 1, 3]))
        plan += draw(st.sampled_from([0] * 7 + [1]))
        tasks = {each.task: each for each in draw(st.lists(parts, max_size=3))}
        sighting = Sighting(
            at_s, seq, plan, draw(times), draw(times), 1280 * 720, tuple(tasks.values()),
            draw(objects), draw(st.one_of(st.none(), st.floats(0, 1e4))), draw(st.booleans()),
        )  # fmt: skip
        found.append(sighting)
    return found


def kept(frames: list[Sighting], most: int, seconds: float) -> tuple[list[Sighting], int]:
    """The frames of a window after the last of them came, and how many came before those."""
    same = [row for row in frames if row.plan == frames[-1].plan]
    in_time = [row for row in same if row.at_s >= frames[-1].at_s - seconds][-most:]
    return in_time, len(frames) - len(in_time)


def plain(frames: list[Sighting], before: Sighting | None, *, is_first: bool) -> dict[str, Any]:
    """What a window says, from its frames alone; `before` is the frame before the first."""
    mean = statistics.fmean
    delays = sorted(row.delay_s for row in frames)
    found: dict[str, Any] = {
        "delay": mean(delays),
        "delay_p50": delays[math.ceil(len(delays) / 2) - 1],
        "delay_p95": delays[math.ceil(0.95 * len(delays)) - 1],
        "delay_max": delays[-1],
        "frames": len(frames),
        "plan_number": frames[-1].plan,
        "home_delay": mean(row.home_s for row in frames),
        "window_s": frames[-1].at_s - (frames[0] if before is None else before).at_s,
        "obj_speed": -1.0,
    }
    if found["window_s"]:
        found["fps"] = (len(frames) - (before is None)) / found["window_s"]
    first_seq = frames[0].seq - 1 if before is None or is_first else before.seq
    found["dropped"] = frames[-1].seq - first_seq - len(frames)
    counted = [row for row in frames if row.objects is not None]
    if counted:
        found["obj_n"] = mean(row.objects.n for row in counted)
        sizes = [row.objects.size for row in counted if row.objects.size is not None]
        shares = [min(size / (1280 * 720), 4.0) for size in sizes]
        found["obj_size"] = mean(shares) * 1280 * 720 if shares else 0.0
        found["obj_size_1080p"] = mean(shares) * 1920 * 1080 if shares else 0.0
        cuts = [index for index, row in enumerate(frames) if row.is_cut]
        since = frames[cuts[-1] :] if cuts else frames
        counts = [row.objects.n for row in since if row.objects is not None]
        enough = len(counts) > bool(cuts)
        found["obj_stable"] = enough and statistics.pstdev(counts) < 0.3
    if speeds := [row.speed for row in frames if row.speed is not None and not row.is_empty]:
        found["obj_speed"] = mean(speeds)
    elif any(row.is_empty for row in frames):
        found["obj_speed"] = 0.0
    found["plan_result"], found["data_trans_size"] = plain_tasks(frames)
    return found


def plain_tasks(frames: list[Sighting]) -> tuple[dict[str, Any], dict[str, float]]:
    names = ("process_delay", "queue_delay", "transfer_delay")
    found: dict[str, dict[str, float]] = {
        name: {} for name in ("delay", "batch", *names, *(f"{name}_p95" for name in names))
    }
    nbytes = {}
    for task in {each.task for row in frames for each in row.tasks}:
        of = [each for row in frames for each in row.tasks if each.task == task]
        for index, name in enumerate(names):
            values = sorted(each[1 + index] for each in of)
            found[name][task] = statistics.fmean(values)
            found[f"{name}_p95"][task] = values[math.ceil(0.95 * len(values)) - 1]
        found["delay"][task] = sum(found[name][task] for name in names)
        busy_ns = sum(int(each.compute_s * 1e9) // each.batch for each in of)
        whole_ns = sum(int(each.compute_s * 1e9) for each in of)
        found["batch"][task] = whole_ns / busy_ns if busy_ns else 1.0
        if sent := [each.nbytes for each in of if each.nbytes]:
            nbytes[task] = statistics.fmean(sent)
    return found, nbytes


def about(value: Any) -> Any:
    """The same document, with numbers that need not be met to the last bit."""
    if isinstance(value, dict):
        return {key: about(item) for key, item in value.items()}
    return value if isinstance(value, bool) else pytest.approx(value, rel=1e-9, abs=1e-6)


@settings(max_examples=100)
@given(rows(), st.integers(1, 8), st.sampled_from([0.3, 1.0, 100.0]))
def test_a_window_says_what_its_frames_say(frames, most, seconds):
    window = Window(most, seconds)
    assert window.describe() == {}
    for count, row in enumerate(frames, 1):
        window.add(row)
        inside, gone = kept(frames[:count], most, seconds)
        before = frames[gone - 1] if gone else None
        is_first = before is not None and before.plan != row.plan
        assert len(window) == len(inside)
        assert window.describe() == about(plain(inside, before, is_first=is_first))
    tasks = window.describe(tails=False).get("plan_result", {})
    assert not [name for name in tasks if name.endswith("_p95")]


@given(st.lists(st.floats(0, 1e3), min_size=1), st.floats(0.001, 1.0))
def test_a_quantile_is_the_least_value_that_so_many_do_not_exceed(values, q):
    values.sort()
    found = quantile(values, q)
    assert sum(value <= found for value in values) >= q * len(values) - 1e-9
    assert sum(value < found for value in values) < q * len(values)


def test_the_deviation_of_the_documents_bounds_what_is_stable():
    for counts, stable in (([20, 20, 21], False), ([20] * 11 + [21], True), ([3, 3], True)):
        sniffer = Sniffer()
        many = [(float(18 * i), 0.0) for i in range(60)]
        observe_all(sniffer, *(result_of(seq, boxes_at(*many[:n], side=10))
                               for seq, n in enumerate(counts)))  # fmt: skip
        assert sniffer.report()["obj_stable"] is stable


def test_a_cut_starts_the_look_at_stability_anew():
    here = boxes_at(*((200.0 * i, 0.0) for i in range(8)))
    there = boxes_at(*((200.0 * i, 500.0) for i in range(5)))
    sniffer = Sniffer()
    observe_all(sniffer, result_of(0, here), result_of(1, here))
    assert sniffer.context()["obj_stable"] is True
    observe_all(sniffer, result_of(2, there))
    assert sniffer.context()["obj_stable"] is False  # one frame says nothing
    observe_all(sniffer, result_of(3, there))
    context = sniffer.context()
    assert context["obj_stable"] is True
    assert context["obj_n"] == 6.5  # means are of all frames, also of those before
    observe_all(sniffer, result_of(4, here), result_of(5, there), result_of(6, here))
    assert sniffer.context()["obj_stable"] is False


# The three windows.


def test_a_window_holds_the_frames_of_one_plan_alone():
    sniffer = Sniffer()
    observe_all(sniffer, *(result_of(seq, plan=1, delay_s=9.0) for seq in range(4)))
    observe_all(sniffer, *(result_of(seq, plan=2, delay_s=0.2) for seq in (4, 5)))
    for context in (sniffer.context(), sniffer.report(), sniffer.answer()):
        assert (context["frames"], context["plan_number"]) == (2, 2)
        assert context["delay"] == pytest.approx(0.2)
        # It begins when the last result of the plan before came.
        assert (context["window_s"], context["fps"]) == pytest.approx((0.2, 10.0))


def test_what_is_reported_does_not_depend_on_how_often_somebody_does():
    often, once = Sniffer(), Sniffer()
    assert often.report() == {}
    for seq in range(60):
        result = result_of(seq, boxes_at((float(seq), 0.0)), delay_s=0.1 + seq / 1000)
        for sniffer in (often, once):
            sniffer.observe(result, seq / 10)
        assert often.has_news
        often.report()
        assert not often.has_news
    assert often.report() == once.report()
    assert once.report()["frames"] == 60
    assert once.context()["frames"] == 51


def test_what_is_asked_for_is_what_came_since_it_was_asked_for_last():
    sniffer = Sniffer()
    assert sniffer.answer() == {}
    observe_all(sniffer, result_of(0), result_of(1))
    assert sniffer.answer()["frames"] == 2
    assert sniffer.answer()["frames"] == 2  # nothing new: what was said last
    observe_all(sniffer, result_of(4))
    found = sniffer.answer()
    assert (found["frames"], found["dropped"]) == (1, 2)
    assert (found["window_s"], found["fps"]) == pytest.approx((0.3, 1 / 0.3))


def test_a_report_begins_anew_when_delays_change_at_once():
    sniffer = Sniffer()
    for seq in range(40):
        sniffer.observe(result_of(seq, delay_s=0.1 + 0.01 * (seq % 3)), seq / 10)
    assert "changed" not in sniffer.report()
    for seq in range(40, 40 + RUN):
        sniffer.observe(result_of(seq, delay_s=0.4), seq / 10)
    report = sniffer.report()
    assert (report["frames"], report["changed"], report["dropped"]) == (RUN, True, 0)
    assert (report["delay"], report["delay_p95"]) == pytest.approx((0.4, 0.4))
    assert sniffer.context()["frames"] == 40 + RUN  # beside a frame it is the latest frames
    for seq in range(45, 160):
        sniffer.observe(result_of(seq, delay_s=0.4), seq / 10)
    assert "changed" not in sniffer.report(), "a window that is full is as good as any"
    for seq in range(160, 160 + RUN):
        sniffer.observe(result_of(seq, delay_s=0.1), seq / 10)
    assert sniffer.report()["changed"] is True
    sniffer.observe(result_of(165, plan=9, delay_s=0.1), 16.5)
    assert "changed" not in sniffer.report(), "it began with the plan"


def test_a_few_slow_frames_are_no_change():
    shift = Shift()
    burst = [0.1, 0.11, 0.12] * 7 + [0.9] * (RUN - 1)
    assert not any(shift.sees(delay_s) for delay_s in burst * 5)


@given(st.floats(1e-4, 10.0), st.lists(st.floats(0.9, 1.1), min_size=1, max_size=300))
def test_delays_of_one_kind_never_change(mean_s, factors):
    shift = Shift()
    assert not any(shift.sees(mean_s * factor) for factor in [1.0] * FEW + factors)


def test_windows_are_bounded_in_frames_and_in_seconds():
    sniffer = Sniffer(frames=20, seconds=1.0)
    for seq in range(200):
        sniffer.observe(result_of(seq), seq / 100)
    for context in (sniffer.report(), sniffer.answer()):
        assert (context["frames"], context["dropped"]) == (20, 0)
        assert context["window_s"] == pytest.approx(0.2)
    for seq in range(200, 210):
        sniffer.observe(result_of(seq), seq)
    assert sniffer.report()["frames"] == 2
    assert sniffer.context()["frames"] == 2


def test_one_frame_is_a_window():
    sniffer = Sniffer()
    sniffer.observe(result_of(7, boxes_at((0, 0)), parts={"a": TaskParts(0.1, 0.2, 0.3)}), 1.0)
    context = sniffer.report()
    assert "fps" not in context  # one result has no rate
    assert (context["frames"], context["window_s"], context["dropped"]) == (1, 0.0, 0)
    assert (context["obj_n"], context["obj_speed"], context["obj_stable"]) == (1.0, -1.0, True)
    assert context["plan_result"]["delay"]["a"] == pytest.approx(0.6)
    assert context["plan_result"]["process_delay_p95"] == {"a": 0.3}
    assert context["data_trans_size"] == {}


def test_a_video_without_times_has_those_of_its_rate():
    sniffer = Sniffer(rate=5.0)
    for seq in range(2):
        sniffer.observe(result_of(seq, boxes_at((3.0 * seq, 0.0)), pts_s=None), seq)
    assert sniffer.report()["obj_speed"] == pytest.approx(15.0)


@given(st.floats(), st.floats(), st.integers(-(2**63), 2**64))
def test_times_that_another_node_has_made_up_stay_within_bounds(one, other, nbytes):
    sniffer = Sniffer()
    parts = {"a": TaskParts(one, other, one, 1, max(nbytes, 0))}
    sniffer.observe(result_of(0, parts=parts, delay_s=one, home_s=other), 0.0)
    sniffer.observe(result_of(1, parts={"a": TaskParts(0.1, 0.1, 0.1)}), 0.1)
    context = sniffer.report()
    means = [context["delay"], context["home_delay"], *context["plan_result"]["delay"].values()]
    assert all(0.0 <= value <= 3 * MAX_TIME_S for value in means)


def test_the_boxes_of_a_frame_are_kept_no_longer_than_until_the_next():
    sniffer = Sniffer()
    sighting = sniffer.observe(result_of(0, boxes_at((0, 0))), 0.0)
    assert sighting.objects == Objects(1, 10_000.0, None)


def test_the_mean_batch_makes_of_what_batches_took_what_each_frame_took_of_the_worker():
    sniffer = Sniffer()
    batches = [(0.04, 4), (0.02, 1), (0.03, 2)]
    for seq, (compute_s, batch) in enumerate(batches):
        parts = {"a": TaskParts(0.0, 0.0, compute_s, batch=batch)}
        sniffer.observe(result_of(seq, parts=parts), seq / 10)
    found = sniffer.report()["plan_result"]
    assert found["process_delay"]["a"] == pytest.approx(0.03)
    busy_s = found["process_delay"]["a"] / found["batch"]["a"]
    assert busy_s == pytest.approx((0.01 + 0.02 + 0.015) / 3, rel=1e-6)
    assert found["delay"]["a"] == pytest.approx(0.03), "a frame waits for all of its batch"
