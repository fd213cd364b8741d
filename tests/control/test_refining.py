"""What running queries measure makes the knowledge base better, is kept, and never breaks it."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduler_kit import HOST, TASKS, node

from vdag.control.profile import Cost, Profile
from vdag.control.profile.costs import BatchPoint
from vdag.control.profile.refining import SAVE_NS, Refinement, load_profile
from vdag.errors import ConfigError
from vdag.plan import Placement, Plan, VideoConf

HERE = {task: Placement("10.0.0.1", "host", 0, HOST) for task in TASKS}
PLAN = Plan(1, VideoConf("480p", 10.0, "JPEG"), HERE)


class Alone:
    """One live node."""

    def node(self, node_addr):
        return node(HOST) if node_addr == HOST else None


def known(compute_s=0.02):
    profile = Profile()
    for task in TASKS:
        profile.put_cost(task, 0, "480p", Cost(compute_s, compute_s * 1.5, samples=100))
    return profile


def runtime(compute_s, frames=20, **more):
    part = dict.fromkeys(TASKS, compute_s)
    result = {"process_delay": part, "process_delay_p95": dict.fromkeys(TASKS, compute_s * 1.2)}
    return {"delay": 0.2, "frames": frames, "plan_result": result, **more}


def test_a_slow_node_is_known_for_it_after_a_few_reports():
    profile = known()
    refinement = Refinement(profile, Alone())
    before = profile.cost("face_detection", 0, "480p", node(HOST)).mean_s()
    for _ in range(20):
        refinement.learn(PLAN, runtime(0.08))
    after = profile.cost("face_detection", 0, "480p", node(HOST)).mean_s()
    assert before == pytest.approx(0.02)
    assert after == pytest.approx(0.08, rel=0.1)
    # A size that was never measured there is as much slower.
    assert profile.cost("face_detection", 0, "720p", node(HOST)).mean_s() > after


def test_frames_of_one_batch_make_no_node_slow_where_batches_were_measured():
    profile = known()
    cost = profile.prior("face_detection", 0, "480p", node(HOST))
    batches = (BatchPoint(6, 2.5 * cost.mean_s()),)
    profile.put_cost("face_detection", 0, "480p", replace(cost, batches=batches))
    refinement = Refinement(profile, Alone())
    for _ in range(20):
        told = runtime(0.02)
        refinement.learn(PLAN, told)
        told = runtime(0.05)
        told["plan_result"]["batch"] = dict.fromkeys(TASKS, 6.0)
        refinement.learn(PLAN, told)
    cost = profile.cost("face_detection", 0, "480p", node(HOST))
    assert cost.mean_s() == pytest.approx(0.02, rel=0.05)
    assert cost.busy_s == pytest.approx(0.05 / 6, rel=0.05)


def test_frames_that_were_sent_say_how_large_they_are():
    profile = known()
    before = profile.frame_nbytes("480p", "JPEG")
    for _ in range(50):
        Refinement(profile, Alone()).learn(
            PLAN, runtime(0.02, data_trans_size={"face_detection": before * 2})
        )
    assert profile.frame_nbytes("480p", "JPEG") == pytest.approx(before * 2, rel=0.1)


def test_a_node_that_is_gone_teaches_nothing():
    profile = known()
    gone = {task: Placement("", "edge", 0, "10.0.0.7:5001") for task in TASKS}
    elsewhere = Plan(1, PLAN.video_conf, gone)
    Refinement(profile, Alone()).learn(elsewhere, runtime(5.0))
    assert profile.cost("face_detection", 0, "480p", node(HOST)).mean_s() == pytest.approx(0.02)


anything = st.one_of(
    st.floats(), st.integers(), st.none(), st.text(max_size=3), st.booleans(), st.lists(st.none())
)
part = st.one_of(anything, st.dictionaries(st.sampled_from([*TASKS, "other"]), anything))


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "frames": anything,
                "obj_n": anything,
                "data_trans_size": part,
                "plan_result": st.one_of(
                    anything,
                    st.fixed_dictionaries(
                        {},
                        optional=dict.fromkeys(
                            ("process_delay", "process_delay_p95", "batch"), part
                        ),
                    ),
                ),
            },
        ),
        max_size=10,
    )
)
def test_whatever_a_node_says_costs_stay_numbers(reports):
    profile = known()
    refinement = Refinement(profile, Alone())
    for each in reports:
        refinement.learn(PLAN, each)
    cost = profile.cost("face_detection", 0, "480p", node(HOST))
    assert 0 < cost.mean_s() <= cost.p95_s() < math.inf
    assert 0 < profile.frame_nbytes("480p", "JPEG") < math.inf


def test_what_was_learned_is_kept_now_and_then_and_at_the_end(tmp_path):
    path = tmp_path / "profile.json"
    refinement = Refinement(known(), Alone(), path)
    refinement.save(0)
    assert not path.exists(), "nothing was learned"
    refinement.learn(PLAN, runtime(0.08))
    refinement.save(SAVE_NS)
    first = path.read_bytes()
    refinement.learn(PLAN, runtime(0.08))
    refinement.save(SAVE_NS + 1)
    assert path.read_bytes() == first
    refinement.save(SAVE_NS + 1, at_once=True)
    assert path.read_bytes() != first
    found = load_profile(None, path).cost("face_detection", 0, "480p", node(HOST))
    assert found.mean_s() > 0.021


def test_a_profile_that_was_measured_anew_counts_and_a_broken_one_is_told_of(tmp_path, caplog):
    base, kept = tmp_path / "base.json", tmp_path / "kept.json"
    known(0.05).save(base)
    known(0.01).save(kept)
    os.utime(base, ns=(0, 0))
    cost = ("face_detection", 0, "480p", node(HOST))
    assert load_profile(base, kept).cost(*cost).mean_s() == pytest.approx(0.01)
    os.utime(kept, ns=(0, 0))
    os.utime(base, ns=(1, 1))
    assert load_profile(base, kept).cost(*cost).mean_s() == pytest.approx(0.05)
    kept.write_text("{")
    assert load_profile(None, kept).cost(*cost) is not None
    assert "what was learned is lost" in caplog.text
    base.write_text("{")
    with pytest.raises(ConfigError, match=r"base\.json"):
        load_profile(base, None)


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    refinement = Refinement(known(), Alone(), tmp_path / "no" / "such" / "folder.json")
    refinement.learn(PLAN, runtime(0.08))
    refinement.save(0, at_once=True)
    assert "what was learned is not kept" in caplog.text
