"""A job: what it sends of its frames, and what it makes of what comes home."""

from __future__ import annotations

import json

import numpy as np
import pytest
from job_kit import (
    HEIGHT,
    ONE,
    SLOTS,
    TWO,
    WIDTH,
    answer_all,
    balanced,
    job_of,
    pictures,
)

from vdag._native import header
from vdag.errors import (
    ConfigError,
    PlanError,
    TransportError,
)
from vdag.frame import Frame
from vdag.graph import Graph
from vdag.itinerary import HOME
from vdag.job import Job
from vdag.sources import SingleFrameGenerator


def test_results_come_in_the_order_of_the_frames_whatever_comes_home_first(post):
    def script(post):
        for descriptor in reversed(post.take(5)):
            post.bring(descriptor)

    with post.playing(script), job_of(post, pictures(5)) as job:
        results = list(job)
    assert [result.seq for result in results] == list(range(5))
    assert [result["faces"] for result in results] == [{"seq": n} for n in range(5)]
    stats = job.stats()
    assert (stats.frames.read, stats.frames.delivered, stats.late, stats.stray) == (5, 5, 0, 0)
    assert balanced(stats)


def test_a_job_says_who_it_is_and_where_it_lives(post, tmp_path):
    with post.playing(answer_all(1)), job_of(post, pictures(1), job_id="abc", plan=3) as job:
        list(job)
    assert (post.join.job, post.join.home) == ("abc", f"ipc://{tmp_path}/job-abc")
    assert Graph.from_dag(json.loads(post.join.graph)) == ONE
    post.until_leave()


def test_a_descriptor_says_everything_about_its_frame(post):
    taken = []

    def script(post):
        taken.extend(post.take(2))
        for descriptor in taken:
            post.bring(descriptor)

    source = SingleFrameGenerator(pictures(2), cam_fps=10, stream="gate")
    with (
        post.playing(script),
        job_of(
            post,
            source,
            placement={"faces": "tcp://10.0.0.2:7000"},
            alias="tcp://10.0.0.1:7000",
            plan=9,
            deadline_s=1.5,
        ) as job,
    ):
        captured = [result.frame.capture_ns for result in job]
    for seq, descriptor in enumerate(taken):
        fixed = descriptor.header
        assert [hop.endpoint for hop in descriptor.route] == [
            "tcp://10.0.0.2:7000",
            "tcp://10.0.0.1:7000",
        ]
        assert (descriptor.job, descriptor.name, descriptor.route[-1].task) == (
            job.id,
            "gate",
            HOME,
        )
        assert (fixed.plan, fixed.seq, fixed.cam_frame_id) == (9, seq, seq)
        assert (fixed.shape, header.DTYPES[fixed.dtype]) == ((HEIGHT, WIDTH, 3), "uint8")
        assert fixed.pts_ns == seq * 100_000_000
        assert fixed.capture_ns == captured[seq]
        assert fixed.deadline_ns == captured[seq] + 1_500_000_000
    assert taken[0].header.stream == taken[1].header.stream


def test_frames_that_leave_the_node_ask_for_no_places_here(post):
    there = {"faces": "tcp://10.0.0.2:7000"}
    with (
        post.playing(answer_all(3)),
        job_of(post, pictures(3), placement=there, alias="tcp://10.0.0.1:7000") as job,
    ):
        assert len(list(job)) == 3
    assert post.asked == []


def test_a_placement_needs_an_alias(post):
    message = r"^placement names other nodes, and this one has no alias for them$"
    with pytest.raises(PlanError, match=message):
        job_of(post, pictures(1), placement={"faces": "tcp://10.0.0.2:7000"})


def test_branches_travel_apart_and_are_joined(post):
    def script(post):
        taken = post.take(6)
        for task, outputs in (("cars", {"count": 1}), ("faces", {"prob": 0.5})):
            for descriptor in taken:
                if descriptor.here.task == task:
                    post.bring(descriptor, **outputs)

    with post.playing(script), job_of(post, pictures(3), TWO) as job:
        results = list(job)
    for seq, result in enumerate(results):
        assert list(result.outputs) == ["faces", "cars"]
        assert result["faces"] == {"prob": 0.5, "seq": seq}
        assert result["cars"] == {"count": 1, "seq": seq}


def test_arrays_of_a_result_belong_to_the_caller(post):
    def script(post):
        (descriptor,) = post.take()
        boxes = np.arange(8, dtype=np.float32).reshape(2, 4)
        post.bring(descriptor, bbox=boxes, crops=[boxes], named={"first": boxes})

    with post.playing(script), job_of(post, pictures(1)) as job:
        (result,) = job
    found = result["faces"]
    for array in (found["bbox"], found["crops"][0], found["named"]["first"]):
        array += 1
        assert np.array_equal(array, np.arange(1, 9, dtype=np.float32).reshape(2, 4))


def test_times_of_tasks_become_delays_and_figures(post):
    def script(post):
        (descriptor,) = post.take()
        start_ns = descriptor.header.capture_ns + 10_000_000
        post.bring(descriptor, times={"faces": [start_ns, start_ns + 30_000_000]})

    with post.playing(script), job_of(post, pictures(1)) as job:
        (result,) = job
    assert result.task_delay_s == {"faces": 0.03}
    assert result.delay_s > 0
    stage = job.stats().frames.tasks["faces"]
    assert (stage.frames, stage.errors) == (1, 0)
    assert stage.process.max_s == 0.03
    assert job.stats().frames.delay.count == 1


def test_a_generator_decodes_into_slots_and_the_results_look_at_them(post):
    script = answer_all(3)
    later = []
    source = SingleFrameGenerator(pictures(3), allocate=lambda *size: later[0].allocate(*size))
    with post.playing(script), job_of(post, source) as job:
        later.append(job)
        for result in job:
            assert not result.frame.pixels.flags.writeable
            assert np.array_equal(result.frame.pixels, pictures(3)[result.seq])
            assert post.arena.stats().leases >= 1
            result.drop_frame()


def test_all_results_can_be_kept_although_there_are_fewer_slots(post):
    later = []
    source = SingleFrameGenerator(
        pictures(4 * SLOTS), allocate=lambda *size: later[0].allocate(*size)
    )
    with (
        post.playing(answer_each(4 * SLOTS)),
        job_of(post, source, max_in_flight=3) as job,
    ):
        later.append(job)
        results = list(job)
    values = [int(result.frame.pixels[0, 0, 0]) for result in results]
    assert values == list(range(4 * SLOTS))
    assert job.stats().frames.dropped == {}
    for result in results:
        result.drop_frame()


def answer_each(count):
    def script(post):
        for _ in range(count):
            post.bring(*post.take())

    return script


def test_frames_of_the_source_s_own_memory_are_handed_back_as_they_were(post):
    mine = [
        Frame(pixels, stream="mine", seq=seq, cam_frame_id=10 * seq)
        for seq, pixels in enumerate(pictures(2))
    ]
    with post.playing(answer_all(2)), job_of(post, iter(mine)) as job:
        results = list(job)
    assert [result.frame for result in results] == mine
    assert [result.cam_frame_id for result in results] == [0, 10]


def test_a_job_is_iterated_once(post):
    with post.playing(answer_all(1)), job_of(post, pictures(1)) as job:
        list(job)
        with pytest.raises(ConfigError, match=r"^a job is iterated once$"):
            next(iter(job))


def test_a_stream_with_a_long_name_travels_under_its_beginning(post):
    frame = Frame(pictures(1)[0], stream="é" * 200)
    taken = []

    def script(post):
        taken.extend(post.take())
        post.bring(*taken)

    with post.playing(script), job_of(post, iter([frame])) as job:
        (result,) = job
    assert result.stream == "é" * 200
    assert taken[0].name == "é" * 127


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "ignore"}, "on_error is 'ignore', expected raise or drop"),
        ({"policy": "newest"}, "policy is 'newest', expected block or latest"),
        ({"max_in_flight": 0}, "max_in_flight is 0, expected 1 to 1024"),
        ({"max_in_flight": 1025}, "max_in_flight is 1025, expected 1 to 1024"),
        ({"frame_timeout_s": 0.0}, "frame_timeout_s is 0.0, expected above 0"),
        ({"deadline_s": -1.0}, "deadline_s is -1.0, expected above 0"),
        (
            {"graph": Graph.chain("helmets", generator="ClipGenerator")},
            "workers take single frames, not those of a ClipGenerator",
        ),
    ],
)
def test_arguments_without_meaning_are_refused(post, options, message):
    with pytest.raises(ConfigError) as caught:
        job_of(post, pictures(1), **options)
    assert str(caught.value) == message


def test_the_exchange_has_to_be_of_this_node(post):
    with pytest.raises(
        ConfigError, match=r"^exchange tcp://127.0.0.1:1 is not of this node, expected ipc://$"
    ):
        Job(ONE, SingleFrameGenerator([]), "tcp://127.0.0.1:1", post.arena)


def test_a_folder_that_is_missing_is_an_error_at_the_first_result(post, tmp_path):
    address = f"ipc://{tmp_path}/missing/exchange"
    with (
        Job(ONE, SingleFrameGenerator([]), address, post.arena, job_id="j") as job,
        pytest.raises(TransportError, match=rf"^no way from {address} to ipc://"),
    ):
        list(job)
