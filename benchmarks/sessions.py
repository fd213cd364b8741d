"""Whether a session takes as long as its algorithm foretold: three hosts in network namespaces.

    PYTHONPATH=.:tests/kit:tests/system python benchmarks/sessions.py --clips CLIPS

The service `capture -> encode | decode -> detect | draw -> render`, capture and render on a client,
the rest wherever the algorithm puts it among two servers and the client. Every algorithm has a
session of ten seconds at a coordinator that knows nothing yet, the first there; then, at the last
of these, sessions in turns, and one after that coordinator was started anew. The delay is from the
capture's start to the render's end, as recorded, mean over the packets of a session without its
first second.

Needs root for namespaces, and about four minutes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hosts_kit import Hosts, reason_to_skip
from session_kit import Theatre
from system_kit import until
from test_sessions import FPS, SERVICE

from vdag.control.records import Store

ALGORITHMS = ("static", "greedy", "min_delay", "policy")
LENGTH_S = 10.0
#: What `static` says: decode and detect on the second server.
WRITTEN = {2: 3, 3: 3}


def services() -> list[dict[str, Any]]:
    """Return the service, and as `static` wants it: with a node for each handler."""
    placed = [
        {**handler, "node_id": handler.get("node_id", WRITTEN.get(handler["handler_id"], 2))}
        for handler in SERVICE["handlers"]
    ]
    written = {"service_id": 1, "service_name": "written", "handlers": placed}
    return [SERVICE, {**SERVICE, **written, "algorithm": "static"}]


def run(theatre: Theatre, algorithm: str) -> tuple[dict[str, int], float, float, float]:
    """Run a session.

    Returns:
        Node by handler; the delay as foretold, as measured, and its 95th percentile, ms.
    """
    asked = {"service": int(algorithm == "static"), "algorithm": algorithm, "start": True}
    found = theatre.asker.post("/session?wait_s=60", asked)
    assert found["state"] == "running", found
    session = found["session_id"]
    placed = theatre.placement(session)
    threading.Event().wait(LENGTH_S)
    theatre.asker.post(f"/session/{session}/stop", {})
    delays = until(lambda: _delays(theatre, session))
    theatre.asker.ask("DELETE", f"/session/{session}")
    last = statistics.quantiles(delays, n=20)[-1]
    return placed["nodes"], 1e3 * placed["delay_s"], 1e3 * statistics.fmean(delays), 1e3 * last


def _delays(theatre: Theatre, session: int) -> list[float]:
    """Return the delays of a session's packets, when all are recorded that there will be."""
    with Store(theatre.database) as store:
        rows = store.log.packets(session)
    began = {row.sequence: row.timestamp for row in rows if _is(row, 0, "start")}
    ended = {row.sequence: row.timestamp for row in rows if _is(row, 5, "end")}
    whole = [number for number in sorted(ended) if number in began]
    found = [ended[number] - began[number] for number in whole][FPS:]
    return found if len(found) > FPS * (LENGTH_S - 4) else []


def _is(row: Any, handler_id: int, event: str) -> bool:
    return bool(row.handler_id == handler_id and row.event == event)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sessions and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=Path, required=True, help="folder of the clips")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args(arguments)
    if reason := reason_to_skip():
        print(reason, file=sys.stderr)
        return 1
    hosts = Hosts(3)
    try:
        print(
            "| algorithm | session | decode, detect, draw on | foretold | measured | off | 95 % |"
        )
        print("|---|---|---|---|---|---|---|")
        for algorithm in ALGORITHMS:
            with tempfile.TemporaryDirectory() as name, _theatre(hosts, Path(name), options) as own:
                show(own, algorithm, "first")
                if algorithm == ALGORITHMS[-1]:
                    for later in ALGORITHMS * options.rounds:
                        show(own, later, "later")
                    own.stop()
                    own.start()
                    until(lambda: all(each["is_there"] for each in own.asker.get("/node")["nodes"]))
                    show(own, "min_delay", "after a restart")
                own.stop()
                for node in own.nodes.values():
                    node.stop()
    finally:
        hosts.close()
    return 0


def show(theatre: Theatre, algorithm: str, when: str) -> None:
    """Run a session, and print its row."""
    nodes, foretold, measured, last = run(theatre, algorithm)
    where = ", ".join(str(nodes[number]) for number in ("2", "3", "4"))
    print(
        f"| {algorithm} | {when} | {where} | {foretold:.1f} | {measured:.1f} "
        f"| {foretold / measured - 1:+.0%} | {last:.1f} |",
        flush=True,
    )


def _theatre(hosts: Hosts, folder: Path, options: argparse.Namespace) -> Theatre:
    """Return a coordinator without records, and its nodes, to be entered."""
    modules = folder / "own.py"
    modules.write_text(
        "import vdag\n\n\n@vdag.task(outputs=['level'])\ndef levels(image):\n"
        "    return {'level': float(image.mean())}\n"
    )
    video = {"path": str(options.clips / "bikes.mp4"), "loop": True, "type": "streets"}
    return Theatre(
        hosts, folder, ["first", "client", "second"], modules=modules,
        videos={"client": {"0": video}}, services=services(),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
