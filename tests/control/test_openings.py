"""Tasks that a node does because it is ordered to: with real workers."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from vdag.control.limits import Limits
from vdag.control.resources import Sampler
from vdag.control.service.openings import Openings
from vdag.control.service.staff import Staff
from vdag.errors import InvalidTransition
from vdag.tasks import TaskOptions
from vdag.tasks.naming import name_of
from vdag.transport.exchange import Exchange
from vdag.workers import WorkerPool

pytestmark = pytest.mark.slow  # as a whole

TASKS = Path(__file__).with_name("job_tasks.py")
TIMEOUT_S = 60.0
OWN = "brightness"
ENCODE = name_of("encode", {"quality": 50})
RENDER = name_of("render", {"to": "../nowhere.mp4"})


class Site:
    """A node's workers, with a task of its own settings, and what is answered to its orders."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.exchange = stack.enter_context(Exchange(folder, classes=[(4096, 8)]))
        self.pool = stack.enter_context(WorkerPool(self.exchange, modules=[TASKS]))
        self.exchange.open_task(OWN)
        self.pool.add(OWN)
        self.pool.wait_ready(OWN, TIMEOUT_S)
        sampler = stack.enter_context(Sampler(1.0))
        limits = stack.enter_context(Limits("vdag_test", mode="rlimit"))
        self.staff = stack.enter_context(
            Staff(self.exchange, self.pool, sampler, limits, options={OWN: TaskOptions()})
        )
        self.openings = stack.enter_context(Openings(self.exchange, self.pool, self.staff))
        self.answers: queue.Queue[tuple[str, int, str]] = queue.Queue()
        self.trials: dict[int, float] = {}
        self._number = 0

    def order(self, task: str, workers: int, trial: tuple[int, int] | None = None) -> int:
        self._number += 1
        self.openings.order(task, workers, self._number, self._tell, trial)
        return self._number

    def _tell(self, task: str, number: int, reason: str, trial_s: float) -> None:
        self.trials[number] = trial_s
        self.answers.put((task, number, reason))

    def next(self) -> tuple[str, int, str]:
        return self.answers.get(timeout=TIMEOUT_S)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    tmp_path.chmod(0o700)
    with ExitStack() as stack:
        yield Site(tmp_path, stack)


def test_a_task_is_open_when_its_workers_serve_and_gone_when_it_is_closed(site: Site):
    assert (number := site.order(ENCODE, 1)) == 1
    assert site.next() == (ENCODE, number, "")
    assert site.staff.tasks == (OWN, ENCODE)
    assert site.staff.models(ENCODE) == (0,)
    assert site.pool.counts()[ENCODE].serving == 1
    assert site.openings.ordered() == {ENCODE: 1}

    number = site.order(ENCODE, 0)
    assert site.next() == (ENCODE, number, "")
    assert site.staff.tasks == (OWN,)
    assert ENCODE not in site.pool.counts()
    assert site.openings.ordered() == {}
    with pytest.raises(InvalidTransition):
        site.exchange.close_task(ENCODE)  # it is closed

    number = site.order(ENCODE, 2)
    assert site.next() == (ENCODE, number, "")
    assert site.pool.counts()[ENCODE].serving == 2


def test_an_order_that_comes_again_is_answered_again_and_changes_nothing(site: Site):
    for _ in range(2):
        number = site.order(ENCODE, 1)
        assert site.next() == (ENCODE, number, "")
    assert site.pool.counts()[ENCODE].wanted == 1


def test_a_task_of_the_settings_is_there_and_stays(site: Site):
    number = site.order(OWN, 1)
    assert site.next() == (OWN, number, "")
    number = site.order(OWN, 0)
    assert site.next() == (OWN, number, "")
    assert site.pool.counts()[OWN].serving == 1


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("nothing", "unknown task 'nothing': expected one of "),
        (name_of("encode", {"quality": 500}), "encode: parameter quality is 500, expected "),
        (RENDER, f"{RENDER} cannot be loaded: "),
    ],
)
def test_a_task_that_cannot_be_done_is_answered_with_the_reason(site: Site, task, reason):
    number = site.order(task, 1)
    found = site.next()
    assert found[:2] == (task, number)
    assert found[2].startswith(reason), found[2]
    assert site.staff.tasks == (OWN,)
    assert site.openings.ordered() == {}
    # Others are still opened.
    number = site.order(ENCODE, 1)
    assert site.next() == (ENCODE, number, "")


def test_tasks_are_opened_side_by_side(site: Site):
    tasks = [name_of("encode", {"quality": quality}) for quality in (10, 20, 30)]
    for task in tasks:
        site.order(task, 1)
    assert {site.next()[0] for _ in tasks} == set(tasks)
    assert set(site.staff.tasks) == {OWN, *tasks}


def test_a_close_that_overtakes_an_opening_leaves_nothing(site: Site):
    site.order(ENCODE, 1)
    last = site.order(ENCODE, 0)
    while (found := site.next())[1] != last:
        pass
    assert found == (ENCODE, last, "")
    assert site.staff.tasks == (OWN,)
    assert ENCODE not in site.pool.counts()


def test_a_task_is_tried_before_its_workers_serve_if_it_shall_be(site: Site):
    small, large = site.order(ENCODE, 1, (64, 48)), 0
    assert site.next() == (ENCODE, small, "")
    site.order(ENCODE, 0)
    assert site.next()[2] == ""
    large = site.order(ENCODE, 1, (1280, 960))
    assert site.next() == (ENCODE, large, "")
    assert 0 < site.trials[small] < site.trials[large] < 1
    number = site.order(ENCODE, 2)  # it is open: what was found before is what there is
    assert site.next() == (ENCODE, number, "")
    assert site.trials[number] == site.trials[large]


def test_what_shows_or_is_somebody_else_s_is_not_tried(site: Site):
    render = name_of("render", {"to": ":0"})
    for task in (OWN, render):
        number = site.order(task, 1, (64, 48))
        assert site.next() == (task, number, "")
        assert site.trials[number] == 0.0
