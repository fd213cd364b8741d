"""Short ways to feed the flow rule, and its instructions as text."""

from __future__ import annotations

from vdag.transport.flow import Deliver, Drop, Flow, Grant, Item

TASK = "face_detection"


def frame(stream: str, seq: int, **fields) -> Item:
    return Item(stream, seq, TASK, **fields)


def opened(policy: str = "fifo", **settings) -> Flow:
    flow = Flow()
    flow.open_task(TASK, policy=policy, **settings)
    return flow


def ready(flow: Flow, worker: str, credit: int = 1, max_batch: int = 1, now_ns: int = 0):
    return flow.worker_ready(TASK, worker, credit=credit, max_batch=max_batch, now_ns=now_ns)


def labels(instructions) -> list[str]:
    """Instructions as text: `w<a/0 a/1` is a batch for w, `a/0 full` a drop."""
    texts = []
    for each in instructions:
        if isinstance(each, Deliver):
            texts.append(f"{each.worker}<{' '.join(f'{i.stream}/{i.seq}' for i in each.items)}")
        elif isinstance(each, Drop):
            texts.append(f"{each.item.stream}/{each.item.seq} {each.reason}")
        elif isinstance(each, Grant):
            texts.append(f"{each.producer}+{each.credit}")
        else:
            texts.append(f"{each.worker} released")
    return texts
