"""Whatever is sent again or late, each result is recorded once, and the numbers only grow."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vdag.control.records import NewQuery, Store, read_frame

RUNS = ("a", "b", "c")
#: What a node sends: results `first` to `first + count - 1` of a run, or nothing but a restart.
SENDINGS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(RUNS), st.integers(1, 30), st.integers(1, 8)), st.just("restart")
    ),
    max_size=12,
)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(SENDINGS)
def test_each_result_of_a_run_is_recorded_once_in_growing_numbers(sendings):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.sqlite"
        store = Store(path, linger_s=0)
        try:
            query_id = store.add_query(NewQuery("n", 1, {"flow": ["a"]}, {})).result(20)
            sent: list[tuple[str, int]] = []
            for sending in sendings:
                if sending == "restart":
                    store.close()
                    store = Store(path, linger_s=0)
                    continue
                run, first, count = sending
                numbers = range(first, first + count)
                store.add_results(
                    query_id,
                    [read_frame({"count_result": {"run": RUNS.index(run)}, "n_loop": n, "seq": n})
                     for n in numbers],
                    run=run,
                )  # fmt: skip
                # One that is older than any of its run counts as trimmed: nobody sends it.
                known = [n for name, n in sent if name == run]
                new = [n for n in numbers if n not in known and n > min(known, default=0)]
                sent += [(run, n) for n in new]
                found = store.results(query_id, limit=1000)
                places = [result.n_loop for result in found]
                assert places == sorted(set(places))
                frames = [result.read() for result in found]
                assert [
                    (RUNS[frame["count_result"]["run"]], frame["seq"]) for frame in frames
                ] == sent
                assert [frame["n_loop"] for frame in frames] == places
        finally:
            store.close()


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=30))
def test_a_node_without_names_loses_nothing_whatever_it_counts(posts):
    """A post is a number of the node's, which may be its last one and be sent again."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "records.sqlite", linger_s=0)
        try:
            query_id = store.add_query(NewQuery("n", 1, {"flow": ["a"]}, {})).result(20)
            expected = []
            for index, (number, is_again) in enumerate(posts):
                frame = read_frame({"count_result": {}, "n_loop": number, "frame_id": float(index)})
                expected.append(float(index))
                for _ in range(2 if is_again else 1):
                    store.add_results(query_id, [frame])
            found = store.results(query_id, limit=1000)
            assert [result.read()["frame_id"] for result in found] == expected
            places = [result.n_loop for result in found]
            assert places == sorted(set(places))
        finally:
            store.close()
