"""How a node's jobs are, as far as the controller may know it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from vdag.control import wire
from vdag.control.scheduling.events import JobInfo, QueryState

if TYPE_CHECKING:
    from vdag.control.agent.notebook import Notebook
    from vdag.control.agent.spool import Spool

__all__ = ["works_of"]


def works_of(
    infos: Sequence[JobInfo], notebook: Notebook, spool: Spool
) -> tuple[list[wire.Work], bool]:
    """Return the jobs, and whether one has ended of which the controller is not told so yet.

    A job is over when all it has found is recorded: who follows its results stops then.

    Args:
        infos: of the jobs.
        notebook: that they write into.
        spool: of results that are not recorded; takes what the notebook has.
    """
    # Looked at after the jobs: a job that is over notes nothing more.
    for result in notebook.take_results():
        spool.add(result)
    works = notebook.works(infos)
    late = {
        work.job_uid
        for work in works
        if QueryState(work.state).is_final and spool.has(work.job_uid, notebook.run)
    }
    as_running = {"state": int(QueryState.RUNNING), "reason": ""}
    found = [
        msgspec.structs.replace(work, **as_running) if work.job_uid in late else work
        for work in works
    ]
    return found, bool(late)
