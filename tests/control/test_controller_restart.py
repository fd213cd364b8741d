"""The controller's end and its next start: what is there again, and what is not."""

from __future__ import annotations

import pytest
from channel_kit import TIMEOUT_S, HandNode, cloud, request, submit, until

from vdag.control import wire
from vdag.errors import ChannelClosed


def test_a_controller_that_is_closed_says_so(tmp_path):
    with cloud(tmp_path) as controller:
        pass
    for future in (controller.stop("GLOBAL_ID_1"), controller.submit(request())):
        with pytest.raises(ChannelClosed, match=r"^the controller is closed$"):
            future.result(TIMEOUT_S)
    controller.close()


def test_queries_are_there_after_a_restart_and_ids_go_on(tmp_path):
    with cloud(tmp_path) as controller, HandNode(controller.channel) as node:
        node.join()
        first = submit(controller)
        (start,) = node.orders()
        node.report(1, jobs=[wire.Work(first, 2, start.plan.number)])
        until(lambda: controller.query(first).state == 2)
        over = submit(controller)
        controller.stop(over).result(TIMEOUT_S)
    with cloud(tmp_path) as controller, HandNode(controller.channel) as node:
        view = controller.query(first)
        assert (view.state, view.suspended, view.plan["number"]) == (2, True, 1)
        assert controller.query(over) is None
        assert controller.stop(over).result(TIMEOUT_S)
        node.join(jobs=[wire.Work(first, 2, 1), wire.Work(over, 2, 1)])
        until(lambda: not controller.query(first).suspended)
        assert wire.StopJob in {type(order) for order in node.orders() if order.job_uid == over}
        assert submit(controller) == "GLOBAL_ID_3"
