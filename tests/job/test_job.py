"""A job against an exchange that does what a test says, to the letter and in any order."""

from __future__ import annotations

import contextlib
import gc
import json
import threading

import msgspec
import numpy as np
import pytest
import zmq

from vdag._native import header
from vdag._native.ring import Arena
from vdag.errors import (
    ConfigError,
    FrameFormatError,
    PlanError,
    SourceError,
    StageError,
    StaleFrame,
    TransportError,
)
from vdag.frame import Frame
from vdag.graph import Edge, Graph
from vdag.itinerary import HOME
from vdag.job import Job, mailbox
from vdag.sources import SingleFrameGenerator
from vdag.transport import codec, messages
from vdag.transport.messages import TIMES, CreditWanted, Dropped, Grant, Join, Leave

WAIT_S = 20.0
WIDTH, HEIGHT = 8, 4
SLOTS = 8

IMAGE = (Edge("image", "SingleFrameGenerator", "image"),)
ONE = Graph("SingleFrameGenerator", ("faces",), {"faces": IMAGE})
TWO = Graph("SingleFrameGenerator", ("faces", "cars"), {"faces": IMAGE, "cars": IMAGE})


def pictures(count):
    return [np.full((HEIGHT, WIDTH, 3), n, np.uint8) for n in range(count)]


class Post:
    """An exchange without queues or workers; every wait has an end."""

    def __init__(self, folder, arena):
        self.address = f"ipc://{folder}/exchange"
        self.arena = arena
        self.context = zmq.Context()
        self.inbox = self.context.socket(zmq.PULL)
        self.inbox.linger = 0
        self.inbox.rcvtimeo = int(WAIT_S * 1e3)
        self.inbox.bind(self.address)
        self.home = None
        self.join = None
        self.asked = []
        self.grants = True
        self.fault = None

    def receive(self):
        """Return the next message: a descriptor, whose lease is used up, or a control message."""
        part = self.inbox.recv()
        if not messages.is_control(part):
            descriptor = codec.decode([part])
            self.look_at(descriptor.header)
            return descriptor
        message = messages.decode(part)
        if isinstance(message, Join):
            self.join = message
            self.home = self.context.socket(zmq.PUSH)
            self.home.connect(message.home)
        if isinstance(message, CreditWanted):
            self.asked.append(message)
            if self.grants:
                self.say(Grant(message.task, message.count))
        return message

    def look_at(self, fixed):
        with self.arena.acquire(fixed.slot, fixed.generation) as view:
            assert bytes(view) == bytes([fixed.seq]) * (WIDTH * HEIGHT * 3)

    def take(self, count=1):
        """Return the next descriptors."""
        taken = []
        while len(taken) < count:
            message = self.receive()
            if isinstance(message, codec.Descriptor):
                taken.append(message)
        return taken

    def say(self, message):
        self.home.send(messages.encode(message))

    def bring(self, descriptor, times=None, **outputs):
        """Send a frame home, as if every task of its route had found `outputs`."""
        fixed = descriptor.header
        context = {hop.task: dict(outputs, seq=fixed.seq) for hop in descriptor.route[:-1]}
        if times is not None:
            context[TIMES] = times
        self.home.send(
            codec.encode(
                codec.Descriptor(
                    header.Header(
                        hop=len(descriptor.route) - 1,
                        plan=fixed.plan,
                        stream=fixed.stream,
                        seq=fixed.seq,
                    ),
                    descriptor.job,
                    descriptor.name,
                    descriptor.route,
                    context,
                )
            )[0]
        )

    def lose(self, descriptor, reason, detail=""):
        fixed = descriptor.header
        self.say(
            Dropped(
                descriptor.job,
                fixed.stream,
                fixed.seq,
                fixed.plan,
                descriptor.here.task,
                reason,
                self.address,
                detail,
            )
        )

    def until_leave(self):
        while not isinstance(self.receive(), Leave):
            pass

    @contextlib.contextmanager
    def playing(self, script):
        """Run `script(post)` beside the test; its errors are the test's."""

        def play():
            try:
                script(self)
            except BaseException as err:
                self.fault = err

        thread = threading.Thread(target=play)
        thread.start()
        try:
            yield
        finally:
            thread.join(WAIT_S)
            assert not thread.is_alive()
            if self.fault is not None:
                raise self.fault

    def close(self):
        self.context.destroy(linger=0)


class Paced:
    """A source of which the test says when the next frame may be read."""

    def __init__(self, frames):
        self.frames = SingleFrameGenerator(frames)
        self.steps = threading.Semaphore(1)
        self.read = 0
        self.told = []

    def go_on(self):
        self.steps.release()

    def __iter__(self):
        for frame in self.frames:
            assert self.steps.acquire(timeout=WAIT_S)
            self.read += 1
            yield frame


class Watched:
    """A source that can be waited for until it was read so far."""

    def __init__(self, frames):
        self.frames = SingleFrameGenerator(frames)
        self.read = threading.Semaphore(0)

    def until_read(self, count):
        for _ in range(count):
            assert self.read.acquire(timeout=WAIT_S)

    def __iter__(self):
        for frame in self.frames:
            self.read.release()
            yield frame


@pytest.fixture
def arena():
    with Arena.create("test-job", [(WIDTH * HEIGHT * 3, SLOTS)]) as arena:
        yield arena
        gc.collect()
        arena.check()
        assert arena.stats().free == SLOTS


@pytest.fixture
def post(tmp_path, arena):
    post = Post(tmp_path, arena)
    yield post
    post.close()
    assert not list(tmp_path.glob("job-*"))


def job_of(post, source, graph=ONE, **options):
    if isinstance(source, list):
        source = SingleFrameGenerator(source)
    return Job(graph, source, post.address, post.arena, **{"frame_timeout_s": WAIT_S, **options})


def balanced(stats):
    frames = stats.frames
    return frames.read == frames.delivered + sum(frames.dropped.values()) + frames.in_flight


def answer_all(count, branches=1):
    def script(post):
        for descriptor in post.take(count * branches):
            post.bring(descriptor)

    return script


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


def test_a_new_plan_begins_with_the_next_frame_that_is_read(post):
    seen = []
    source = Paced(pictures(6))

    def script(post):
        for _ in range(6):
            (descriptor,) = post.take()
            seen.append((descriptor.header.plan, descriptor.here.endpoint))
            post.bring(descriptor)

    there = "tcp://10.0.0.2:7000"
    with (
        post.playing(script),
        job_of(post, source, alias="tcp://10.0.0.1:7000", plan=1, max_in_flight=1) as job,
    ):
        plans = []
        for result in job:
            plans.append(result.plan)
            if result.seq == 1:
                job.replan(2, {"faces": there}, lambda: source.told.append(source.read))
                job.replan(3, {"faces": there}, lambda: source.told.append(source.read))
            if result.seq == 3:
                job.replan(4)
            source.go_on()
    # The frame after is read, or about to be, while the caller looks at one.
    assert plans[:2] == [1, 1]
    assert plans[3] == 3
    assert plans[5] == 4
    assert plans == sorted(plans)
    assert [plan for plan, _ in seen] == plans
    assert {endpoint for plan, endpoint in seen if plan == 3} == {there}
    assert {endpoint for plan, endpoint in seen if plan != 3} == {post.address}
    assert source.told == [plans.index(3)]  # between two frames, and once


def test_a_plan_that_does_not_fit_changes_nothing(post):
    with post.playing(answer_all(2)), job_of(post, pictures(2), plan=1, alias="tcp://a:1") as job:
        with pytest.raises(PlanError, match="placement names 'boats', which is no task"):
            job.replan(2, {"boats": "tcp://b:1"})
        assert [result.plan for result in job] == [1, 1]


def test_frames_at_a_node_that_is_lost_are_given_up_and_the_next_go_elsewhere(post):
    there = "tcp://10.0.0.2:7000"
    seen = []

    def script(post):
        post.take(2)  # as many as may be under way; they never come home
        job.replan(2)
        job.give_up({there})
        for _ in range(2):
            (descriptor,) = post.take()
            seen.append((descriptor.header.seq, descriptor.header.plan, descriptor.here.endpoint))
            post.bring(descriptor)

    with (
        job_of(
            post, pictures(4), alias="tcp://10.0.0.1:7000", plan=1, placement={"faces": there},
            max_in_flight=2,
        ) as job,
        post.playing(script),
    ):  # fmt: skip
        assert [(result.seq, result.plan) for result in job] == [(2, 2), (3, 2)]
        assert job.stats().frames.dropped == {"unreachable": 2}
    # Those that had not left did so under the new plan, for the source is the same.
    assert seen == [(2, 2, post.address), (3, 2, post.address)]


def test_frames_that_would_still_go_to_a_lost_node_are_given_up_too(post):
    there = "tcp://10.0.0.2:7000"
    source = Watched(pictures(4))

    def script(post):
        post.take(1)
        source.until_read(3)  # one waits to leave, one waits for its place
        job.replan(2, prepare=lambda: None)  # the source changes: what was read stays as it is
        job.give_up({there})
        post.bring(*post.take())

    with (
        job_of(
            post, source, alias="tcp://10.0.0.1:7000", plan=1, placement={"faces": there},
            max_in_flight=1,
        ) as job,
        post.playing(script),
    ):  # fmt: skip
        found = [(result.seq, result.plan) for result in job]
        dropped = job.stats().frames.dropped
    assert found == [(3, 2)]
    assert dropped == {"unreachable": 3}


def test_frames_go_to_a_node_that_is_back_and_are_not_waited_for_from_before(post):
    there = "tcp://10.0.0.2:7000"
    source = Watched(pictures(3))

    def script(post):
        post.take(1)
        source.until_read(3)  # the second waits to leave: it has not been there
        job.give_up({there}, back={there})
        for _ in range(2):
            post.bring(*post.take())

    with (
        job_of(
            post, source, alias="tcp://10.0.0.1:7000", plan=1, placement={"faces": there},
            max_in_flight=1,
        ) as job,
        post.playing(script),
    ):  # fmt: skip
        assert [result.seq for result in job] == [1, 2]
        assert job.stats().frames.dropped == {"unreachable": 1}


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


def test_a_frame_that_does_not_come_home_times_out_and_is_late_afterwards(post):
    def script(post):
        first, second = post.take(2)
        post.bring(second)
        message = post.receive()
        while not (isinstance(message, codec.Descriptor) and message.header.seq == 2):
            message = post.receive()  # it leaves only when frame 0 has timed out
        post.bring(first)
        post.bring(message)

    with (
        post.playing(script),
        job_of(post, pictures(3), max_in_flight=2, frame_timeout_s=0.2) as job,
    ):
        seqs = [result.seq for result in job]
    assert seqs == [1, 2]
    stats = job.stats()
    assert stats.frames.dropped == {"timeout": 1}
    assert stats.late == 1
    assert balanced(stats)


def test_a_frame_home_twice_is_delivered_once(post):
    def script(post):
        first, second = post.take(2)
        post.bring(first)
        post.bring(first)
        post.bring(second)

    with post.playing(script), job_of(post, pictures(2)) as job:
        assert [result.seq for result in job] == [0, 1]
    assert (job.stats().late, job.stats().frames.delivered) == (1, 2)


def test_a_frame_that_the_exchange_dropped_is_skipped_and_counted_by_its_reason(post):
    def script(post):
        for descriptor in post.take(8):
            seq, task = descriptor.header.seq, descriptor.here.task
            if seq == 1:
                post.lose(descriptor, "full")  # in both branches, and counted once
            elif (seq, task) == (2, "cars"):
                post.lose(descriptor, "deadline")
            else:
                post.bring(descriptor)

    with post.playing(script), job_of(post, pictures(4), TWO) as job:
        assert [result.seq for result in job] == [0, 3]
    stats = job.stats()
    assert stats.frames.dropped == {"full": 1, "deadline": 1}
    assert stats.late <= 1  # the other branch of frame 2, if it came second
    assert balanced(stats)


def test_the_error_of_a_task_comes_at_the_frame_s_turn(post):
    def script(post):
        first, second, third = post.take(3)
        post.lose(second, "failed", "ZeroDivisionError: three\nTraceback ...\n  line 1")
        post.bring(third)
        post.bring(first)

    with post.playing(script), job_of(post, pictures(3)) as job:
        results = iter(job)
        assert next(results).seq == 0
        with pytest.raises(
            StageError, match=r"^faces failed on frame 1: ZeroDivisionError: three$"
        ) as caught:
            next(results)
    assert str(caught.value.__cause__) == "in the worker of faces:\nTraceback ...\n  line 1"
    stats = job.stats()
    assert stats.frames.dropped["error"] == 1
    assert stats.frames.tasks["faces"].errors == 1
    assert balanced(stats)


def test_a_frame_that_killed_its_workers_is_an_error_too(post):
    def script(post):
        post.lose(*post.take(), "poison", "killed by signal 9")

    with (
        post.playing(script),
        job_of(post, pictures(1)) as job,
        pytest.raises(StageError, match=r"^faces failed on frame 0: killed by signal 9$"),
    ):
        list(job)
    assert job.stats().frames.dropped == {"poison": 1}


def test_a_failing_frame_can_be_dropped(post):
    def script(post):
        first, second = post.take(2)
        post.lose(first, "failed", "ValueError: no")
        post.bring(second)

    with post.playing(script), job_of(post, pictures(2), on_error="drop") as job:
        assert [result.seq for result in job] == [1]
    assert job.stats().frames.dropped == {"error": 1}


def test_block_sends_nothing_that_was_not_granted_a_place(post):
    post.grants = False
    seen = []

    def script(post):
        while not post.asked:
            post.receive()
        assert post.asked == [CreditWanted(post.join.job, "faces", 4)]
        for _ in range(3):
            post.say(Grant("faces", 1))
            (descriptor,) = post.take()
            seen.append(descriptor.header.seq)
            while post.inbox.poll(0):
                assert isinstance(post.receive(), CreditWanted)
            post.bring(descriptor)

    with post.playing(script), job_of(post, pictures(3), max_in_flight=4) as job:
        assert [result.seq for result in job] == [0, 1, 2]
    assert seen == [0, 1, 2]
    assert post.asked[0].count == 4


def test_a_place_that_is_never_granted_is_a_time_out(post):
    post.grants = False
    with job_of(post, pictures(2), frame_timeout_s=0.1) as job:
        assert list(job) == []
    assert job.stats().frames.dropped == {"timeout": 2}


def test_latest_drops_what_waits_for_something_newer(post):
    fed = threading.Event()

    def source():
        yield from (Frame(pixels, seq=seq) for seq, pixels in enumerate(pictures(6)))
        fed.set()

    def script(post):
        (first,) = post.take()
        assert fed.wait(WAIT_S)
        post.bring(first)
        post.bring(*post.take())

    with (
        post.playing(script),
        job_of(post, source(), policy="latest", max_in_flight=1) as job,
    ):
        assert [result.seq for result in job] == [0, 5]
    stats = job.stats()
    assert stats.frames.dropped == {"superseded": 4}
    assert post.asked == []
    assert balanced(stats)


@pytest.mark.parametrize("policy", ["latest", "block"])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_frame_that_finds_no_slot_is_dropped_and_counted(post, policy, in_place):
    kept = [post.arena.loan(1) for _ in range(SLOTS)]
    later = []
    allocate = (lambda *size: later[0].allocate(*size)) if in_place else None
    source = SingleFrameGenerator(pictures(2), allocate=allocate)
    with job_of(post, source, policy=policy, frame_timeout_s=0.1) as job:
        later.append(job)
        assert list(job) == []
    assert job.stats().frames.dropped == {"arena_full": 2}
    assert balanced(job.stats())
    for loan in kept:
        loan.abandon()


def test_block_waits_for_a_slot(post):
    kept = [post.arena.loan(1) for _ in range(SLOTS)]

    def script(post):
        while not isinstance(post.receive(), CreditWanted):
            pass
        kept.pop().abandon()
        post.bring(*post.take())

    with post.playing(script), job_of(post, pictures(1)) as job:
        assert [result.seq for result in job] == [0]
    for loan in kept:
        loan.abandon()


def test_messages_that_make_no_sense_are_counted_and_change_nothing(post):
    def script(post):
        (descriptor,) = post.take()
        fixed, route = descriptor.header, descriptor.route
        home = {"hop": 1, "kind": 0, "dtype": 0, "shape": (), "payload_nbytes": 0}
        home |= {"arena": 0, "slot": 0, "generation": 0, "offset": 0}
        at_home = msgspec.structs.replace(
            descriptor, header=fixed.replace(**home), context={"faces": {"seq": 0}}
        )
        boats = (codec.Hop("boats", route[0].endpoint), route[1])
        strangers = [
            msgspec.structs.replace(at_home, job="another"),
            msgspec.structs.replace(at_home, header=at_home.header.replace(stream=1)),
            msgspec.structs.replace(at_home, header=at_home.header.replace(hop=0)),
            msgspec.structs.replace(at_home, context={}),
            msgspec.structs.replace(at_home, context={"faces": {}, TIMES: {"faces": [1]}}),
            msgspec.structs.replace(at_home, context={"faces": {}, TIMES: {"boats": [1, 2]}}),
            msgspec.structs.replace(at_home, route=boats, context={"boats": {}}),
        ]
        for stranger in strangers:
            post.home.send(codec.encode(stranger)[0])
        post.home.send(b"")
        post.home.send(b"VCTL nonsense")
        post.home.send_multipart([codec.encode(at_home)[0], b"more"])
        post.say(Leave(post.join.job))
        post.say(Grant("boats", 1))
        post.say(Dropped("another", fixed.stream, 0, 0, "faces", "full", post.address))
        post.say(Dropped(post.join.job, 1, 0, 0, "faces", "full", post.address))
        post.say(Dropped(post.join.job, fixed.stream, 0, 0, "boats", "full", post.address))
        post.bring(descriptor)

    with post.playing(script), job_of(post, pictures(1)) as job:
        assert [result["faces"] for result in job] == [{"seq": 0}]
    assert job.stats().stray == 15
    assert job.stats().frames.dropped == {}


def test_closing_in_the_middle_counts_what_was_in_flight_and_leaves_nothing(post):
    def endless():
        seq = 0
        while True:
            yield Frame(np.full((HEIGHT, WIDTH, 3), seq % 256, np.uint8), seq=seq)
            seq += 1

    travels = threading.Event()

    def script(post):
        answer_each(2)(post)
        post.take()
        travels.set()

    with (
        post.playing(script),
        job_of(post, endless(), max_in_flight=3) as job,
    ):
        results = iter(job)
        assert [next(results).seq for _ in range(2)] == [0, 1]
        assert travels.wait(WAIT_S)
    stats = job.stats()
    assert (stats.frames.delivered, stats.frames.in_flight) == (2, 0)
    assert stats.frames.dropped["closed"] >= 1
    assert balanced(stats)
    assert list(results) == []
    with contextlib.suppress(StaleFrame):  # what was not taken in before the end was taken back
        post.until_leave()
    assert post.arena.stats().leases == 0


def test_closing_wakes_a_caller_who_waits_for_a_result(post):
    with job_of(post, pictures(1)) as job:
        results = iter(job)
        found = []
        thread = threading.Thread(target=lambda: found.extend(results))
        thread.start()
        post.take()
        job.close()
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert found == []
    assert job.stats().frames.dropped == {"closed": 1}


def test_a_job_that_was_never_iterated_has_nothing_to_close(post):
    with job_of(post, pictures(1)) as job:
        pass
    with pytest.raises(ConfigError, match=r"^a job is iterated once$"):
        next(iter(job))


def test_a_job_is_iterated_once(post):
    with post.playing(answer_all(1)), job_of(post, pictures(1)) as job:
        list(job)
        with pytest.raises(ConfigError, match=r"^a job is iterated once$"):
            next(iter(job))


def test_an_exchange_that_reads_nothing_costs_frames_and_not_the_job(post, monkeypatch, tmp_path):
    monkeypatch.setattr(mailbox, "HIGH_WATER", 2)
    monkeypatch.setattr(mailbox, "LINGER_MS", 0)
    nobody = f"ipc://{tmp_path}/nobody"
    source = SingleFrameGenerator(pictures(4))
    with Job(ONE, source, nobody, post.arena, policy="latest", frame_timeout_s=0.1) as job:
        assert list(job) == []
    dropped = job.stats().frames.dropped
    assert dropped == {"peer_full": 3, "timeout": 1}
    assert post.arena.stats().free == SLOTS


def test_the_error_of_a_source_comes_after_the_frames_before_it(post):
    def source():
        yield from (Frame(pixels, seq=seq) for seq, pixels in enumerate(pictures(2)))
        raise SourceError("camera: unplugged")

    with post.playing(answer_all(2)), job_of(post, source()) as job:
        results = iter(job)
        assert [next(results).seq for _ in range(2)] == [0, 1]
        with pytest.raises(SourceError, match=r"^camera: unplugged$"):
            next(results)


def test_a_source_that_counts_backwards_is_refused(post):
    frames = [Frame(pictures(1)[0], seq=0), Frame(pictures(1)[0], seq=0)]
    with post.playing(answer_all(1)), job_of(post, iter(frames)) as job:
        results = iter(job)
        assert next(results).seq == 0
        with pytest.raises(SourceError, match=r"^frame 0 comes after frame 0$"):
            next(results)


def test_a_frame_too_large_for_the_slots_is_an_error_of_the_source(post):
    large = Frame(np.zeros((HEIGHT, 2 * WIDTH, 3), np.uint8))
    with (
        job_of(post, iter([large])) as job,
        pytest.raises(SourceError, match=r"^frame of 16x4 does not fit the shared memory: "),
    ):
        list(job)


def test_a_frame_that_no_header_can_describe_ends_the_job_and_is_counted(post):
    frame = Frame(pictures(1)[0], cam_frame_id=-1)
    with (
        job_of(post, iter([frame]), policy="latest") as job,
        pytest.raises(FrameFormatError, match="cam_frame_id"),
    ):
        list(job)
    assert job.stats().frames.dropped == {"error": 1}
    assert post.arena.stats().free == SLOTS


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


def test_closing_ends_the_reading_of_a_source_that_is_the_job_s_to_close(post):
    source = SingleFrameGenerator(pictures(2))
    job_of(post, source).close()
    assert source.read() is not None
    job_of(post, source, close_source=source.close).close()
    assert source.read() is None


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
