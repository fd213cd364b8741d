from __future__ import annotations

import json
import math
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdag.errors import PlanError
from vdag.plan import ENCODERS, Constraint, Placement, Plan, ResourceLimit, VideoConf
from vdag.sampling import RESOLUTIONS

TASKS = ("face_detection", "face_alignment")
CONF = {"resolution": "480p", "fps": 30, "encoder": "JPEG"}
HOST = {"model_id": 0, "node_role": "host", "node_ip": "192.168.56.102"}
CLOUD = {"model_id": 1, "node_role": "cloud", "node_ip": "114.212.81.11"}
MAPPING = {"face_detection": HOST, "face_alignment": CLOUD}


def read(conf=CONF, mapping=MAPPING, limit=None, **more) -> Plan:
    return Plan.from_documents(TASKS, conf, mapping, limit, **{"number": 1, **more})


def refuses(text: str):
    return pytest.raises(PlanError, match=f"^{re.escape(text)}$")


# The documents' forms.


def test_the_plan_of_the_older_document_is_read_with_a_conf_per_task_and_without_roles():
    conf = {task: {"resolution": "480p", "fps": 30, "encoder": "H264"} for task in TASKS}
    mapping = {
        "face_detection": {"model_id": 0, "node_ip": "192.168.56.102"},
        "face_alignment": {"model_id": 0, "node_ip": "114.212.81.11"},
    }
    plan = read(conf, mapping)
    assert plan.video_conf == VideoConf("480p", 30, "H264")
    assert plan.task_conf == {}
    assert plan.flow_mapping == {
        "face_detection": Placement("192.168.56.102", ""),
        "face_alignment": Placement("114.212.81.11", ""),
    }


def test_the_plan_of_the_newer_document_is_read_with_one_conf_and_roles():
    mapping = {
        "face_detection": {"model_id": 0, "node_role": "host", "node_ip": "127.0.0.1"},
        "face_alignment": {"model_id": 0, "node_role": "cloud", "node_ip": "127.0.0.1"},
    }
    plan = read(mapping=mapping)
    assert plan.flow_mapping["face_alignment"] == Placement("127.0.0.1", "cloud")
    assert plan.to_documents()["flow_mapping"] == mapping


def test_the_documents_that_are_written_name_the_resolution_twice_and_keep_whole_rates_whole():
    limit = {"face_detection": {"cpu_util_limit": 0.25, "mem_util_limit": 1.0}}
    documents = read(limit=limit).to_documents()
    assert json.loads(json.dumps(documents)) == {
        "video_conf": {"resolution": "480p", "reso": "480p", "fps": 30, "encoder": "JPEG"},
        "flow_mapping": MAPPING,
        "resource_limit": limit,
    }
    assert type(documents["video_conf"]["fps"]) is int
    assert VideoConf("480p", 0.5).to_document()["fps"] == 0.5


def test_what_was_kept_is_repeated_letter_by_letter():
    conf = {"reso": "360p", "fps": 30, "encoder": "JEPG"}
    plan = read(conf, keep=True)
    assert plan.echo()["video_conf"] == conf
    assert plan.echo()["resource_limit"] == {}
    assert read(conf).echo()["video_conf"] == plan.to_documents()["video_conf"]
    assert plan == read(conf)


def test_the_conf_of_the_job_is_the_best_that_a_task_asks_for():
    conf = {
        "face_detection": {"resolution": "360p", "fps": 30, "encoder": "H264"},
        "face_alignment": {"resolution": "1080p", "fps": 5, "encoder": "JPEG"},
    }
    plan = read(conf)
    assert plan.video_conf == VideoConf("1080p", 30, "H264")
    assert plan.conf_of("face_detection") == VideoConf("360p", 30, "H264")
    assert plan.conf_of("face_alignment") == VideoConf("1080p", 5)


def test_the_size_of_the_source_is_better_than_any_other():
    conf = {
        task: {**CONF, "resolution": name}
        for task, name in zip(TASKS, ("1080p", "source"), strict=True)
    }
    assert read(conf).video_conf.resolution == "native"
    assert read(conf).video_conf.size is None


@pytest.mark.parametrize(
    ("spelling", "encoder"),
    [("JPEG", "JPEG"), ("JEPG", "JPEG"), ("jpg", "JPEG"), ("H264", "H264"), ("h264", "H264"),
     ("raw", "raw"), ("RAW", "raw"), ("x", "raw"), (None, "JPEG")],
)  # fmt: skip
def test_encoders_are_read_in_all_spellings(spelling, encoder):
    assert VideoConf.from_document({**CONF, "encoder": spelling}).encoder == encoder


@pytest.mark.parametrize(
    ("given", "size"),
    [("360p", (480, 360)), ("1280x720", (1280, 720)), ({"w": 640, "h": 480}, (640, 480))],
)
def test_resolutions_are_read_by_name_as_text_and_as_a_size(given, size):
    assert VideoConf.from_document({"reso": given, "fps": 1}).size == size


def test_what_is_left_out_or_null_stays_as_it_was():
    before = read(limit={"face_detection": {"cpu_util_limit": 0.5}})
    assert read(None, None, None, previous=before) == before
    after = read({"fps": 5}, {"face_alignment": HOST}, previous=before)
    assert after.video_conf == VideoConf("480p", 5)
    assert after.flow_mapping["face_detection"] == before.flow_mapping["face_detection"]
    assert after.flow_mapping["face_alignment"] == Placement("192.168.56.102")
    assert after.resource_limit == {"face_detection": ResourceLimit(0.5)}


def test_an_empty_resource_limit_takes_the_limits_away():
    before = read(limit={"face_detection": {"cpu_util_limit": 0.5}})
    assert read(limit={}, previous=before).resource_limit == {}


# What is refused.


@pytest.mark.parametrize(
    ("conf", "text"),
    [
        (None, "video_conf is an object, not nothing"),
        ([], "video_conf is an object, not a list"),
        (
            {"fps": 3},
            f"resolution is one of {', '.join(RESOLUTIONS)}, not nothing",
        ),
        ({**CONF, "fps": None}, "fps is a number, not nothing"),
        ({**CONF, "fps": True}, "fps is a number, not a bool"),
        ({**CONF, "fps": "30"}, "fps is a number, not a str"),
        ({**CONF, "fps": 0}, "fps 0 is not between 0.001 and 1000"),
        ({**CONF, "fps": math.nan}, "fps nan is not between 0.001 and 1000"),
        ({**CONF, "fps": 10**400}, "fps is a number of more than 300 digits"),
        ({**CONF, "encoder": "AV1"}, "encoder 'AV1' is unknown, expected JPEG, H264, raw"),
        ({**CONF, "encoder": 5}, "encoder 5 is unknown, expected JPEG, H264, raw"),
        (
            {**CONF, "resolution": "0x5"},
            "resolution '0x5' has a side outside 1 to 16384",
        ),
        (
            {"face_detection": CONF, "other": CONF},
            "video_conf names 'other', which is no task of the query",
        ),
        (
            {"face_detection": CONF, "face_alignment": {**CONF, "fps": -1}},
            "video_conf.face_alignment: fps -1 is not between 0.001 and 1000",
        ),
    ],
)
def test_a_conf_without_meaning_is_refused(conf, text):
    with refuses(text):
        read(conf)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (None, "flow_mapping does not place face_alignment"),
        ("cloud", "flow_mapping.face_alignment is an object, not a str"),
        ({"node_ip": 7}, "flow_mapping.face_alignment.node_ip is text, not a int"),
        (
            {"model_id": 0},
            "flow_mapping.face_alignment: node_ip is missing, and so are node_role and node_addr",
        ),
        (
            {"node_ip": "a", "node_role": "moon"},
            "flow_mapping.face_alignment: node_role 'moon' is unknown, expected host, edge, cloud",
        ),
        (
            {"node_ip": "a", "model_id": 100},
            "flow_mapping.face_alignment: model_id 100 is not between 0 and 99",
        ),
        (
            {"node_ip": "a", "model_id": "0"},
            "flow_mapping.face_alignment.model_id is a number of a model, not '0'",
        ),
        (
            {"node_ip": "a" * 261},
            "flow_mapping.face_alignment: node_ip of 261 characters exceeds 260",
        ),
    ],
)
def test_a_placement_without_meaning_is_refused(entry, text):
    with refuses(text):
        read(mapping={"face_detection": HOST, "face_alignment": entry})


def test_a_mapping_of_a_foreign_task_is_refused():
    with refuses("flow_mapping names 'other', which is no task of the query"):
        read(mapping={**MAPPING, "other": HOST})
    with refuses("flow_mapping is an object, not nothing"):
        read(mapping=None)


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (3, "resource_limit is an object, not a int"),
        ({"other": {}}, "resource_limit names 'other', which is no task of the query"),
        (
            {"face_detection": {"cpu_util_limit": 0}},
            "resource_limit.face_detection: cpu_util_limit 0 is not above 0 to 1",
        ),
        (
            {"face_detection": {"mem_util_limit": 1.5}},
            "resource_limit.face_detection: mem_util_limit 1.5 is not above 0 to 1",
        ),
        (
            {"face_detection": {"cpu_util_limit": "all"}},
            "resource_limit.face_detection: cpu_util_limit is a number, not a str",
        ),
    ],
)
def test_a_limit_without_meaning_is_refused(limit, text):
    with refuses(text):
        read(limit=limit)


def test_a_plan_is_checked_however_it_is_made():
    conf, mapping = VideoConf("360p", 5), {"a": Placement("1.2.3.4")}
    with refuses("number -1 is not between 0 and 2**63 - 1"):
        Plan(-1, conf, mapping)
    with refuses("flow_mapping places no task"):
        Plan(1, conf, {})
    with refuses("resource_limit names 'b', which flow_mapping does not place"):
        Plan(1, conf, mapping, {"b": ResourceLimit()})
    with refuses("task_conf names 'b', which flow_mapping does not place"):
        Plan(1, conf, mapping, {}, {"b": conf})


# Plans among each other.


def test_plans_that_ask_for_the_same_differ_in_their_numbers_only():
    plan = read()
    assert plan.numbered(2) != plan
    assert plan.numbered(2).orders_as(plan)
    assert not plan.orders_as(read({**CONF, "fps": 29}))
    assert not plan.orders_as(None)


def test_a_plan_needs_the_nodes_that_were_chosen():
    mapping = {
        "face_detection": {**HOST, "node_addr": "192.168.56.102:5001"},
        "face_alignment": CLOUD,
    }
    assert read(mapping=mapping).nodes() == {"192.168.56.102:5001"}
    assert read(mapping=mapping).to_documents()["flow_mapping"] == mapping


resolutions = st.one_of(
    st.sampled_from(["native", *RESOLUTIONS]),
    st.builds("{}x{}".format, st.integers(1, 16384), st.integers(1, 16384)),
)
confs = st.builds(VideoConf, resolutions, st.floats(0.001, 1000), st.sampled_from(ENCODERS))
placements = st.builds(
    Placement, st.sampled_from(["10.0.0.1", "fe80::1"]), st.sampled_from(["host", "edge", "cloud"]),
    st.integers(0, 99), st.sampled_from(["", "10.0.0.1:5001"]),
)  # fmt: skip
shares = st.floats(0.01, 1)
plans = st.builds(
    Plan,
    st.integers(0, 2**63 - 1),
    confs,
    st.fixed_dictionaries(dict.fromkeys(TASKS, placements)),
    st.dictionaries(st.sampled_from(TASKS), st.builds(ResourceLimit, shares, shares)),
)


@given(plans)
def test_a_plan_comes_back_from_its_documents(plan: Plan):
    documents = json.loads(json.dumps(plan.to_documents()))
    assert Plan.from_documents(TASKS, **documents, number=plan.number) == plan
    assert Plan.read(TASKS, {**documents, "number": 7}, number=plan.number) == plan


def test_what_documents_leave_out_stays_as_it_was():
    before = Plan.from_documents(TASKS, CONF, MAPPING, number=1)
    after = Plan.read(TASKS, {"video_conf": {**CONF, "fps": 5}}, number=2, previous=before)
    assert (after.number, after.video_conf.fps) == (2, 5)
    assert after.flow_mapping == before.flow_mapping


@given(plans)
def test_a_plan_comes_back_from_a_message(plan: Plan):
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=Plan) == plan


def test_a_message_cannot_carry_a_plan_without_meaning():
    data = msgspec.msgpack.encode(read()).replace(b"480p", b"48!p")
    with pytest.raises(msgspec.ValidationError, match="resolution '48!p' is unknown"):
        msgspec.msgpack.decode(data, type=Plan)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["resolution", "reso", "fps", "encoder", "node_ip", "delay", *TASKS]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values, json_values, json_values)
def test_documents_of_any_shape_are_read_or_refused(conf, mapping, limit):
    try:
        plan = read(conf, mapping, limit)
    except PlanError:
        return
    assert tuple(plan.flow_mapping) == TASKS


# Constraints.


@pytest.mark.parametrize(
    ("document", "delay_s", "accuracy"),
    [
        ({"delay": 0.3, "accuracy": 0.9}, (-1, 0.3), 0.9),
        ({"delay": [-1, 50], "acc_level": 5}, (-1, 50), 1.0),
        ({"delay": [0.1, -1], "acc_level": 0}, (0.1, -1), 0.0),
        ({"delay": None, "accuracy": None}, (-1, -1), None),
        ({"delay": math.nan, "accuracy": -1}, (-1, -1), None),
        ({"delay": 0.3, "accuracy": 10}, (-1, 0.3), 1.0),
        ({}, (-1, -1), None),
        (None, (-1, -1), None),
    ],
)
def test_constraints_are_read_in_the_forms_of_all_clients(document, delay_s, accuracy):
    constraint = Constraint.from_document(document)
    assert (constraint.delay_s, constraint.accuracy) == (delay_s, accuracy)
    assert constraint.to_document() == (document or {})


def test_a_constraint_without_a_document_is_written_in_the_documents_words():
    assert Constraint((-1.0, 0.3), 0.9).to_document() == {"delay": 0.3, "accuracy": 0.9}
    assert Constraint((0.1, 0.3)).to_document() == {"delay": [0.1, 0.3]}
    assert Constraint().to_document() == {}
    conf = VideoConf("320x240", 10.0)
    written = Constraint(video_conf=conf).to_document()
    assert written == {"video_conf": conf.to_document()}
    assert Constraint.from_document(written).video_conf == conf


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ([], "user_constraint is an object, not a list"),
        ({"delay": "fast"}, "delay is a number, not a str"),
        ({"delay": [1]}, "delay is a number or [low, high], not a list of 1"),
        ({"delay": [1, "x"]}, "delay[1] is a number, not a str"),
        ({"delay": [2, 1]}, "delay of at least 2 s and at most 1 s has no value"),
        ({"accuracy": {}}, "accuracy is a number, not a dict"),
    ],
)
def test_a_constraint_without_meaning_is_refused(document, text):
    with refuses(text):
        Constraint.from_document(document)


@given(json_values)
def test_constraints_of_any_shape_are_read_or_refused(document):
    try:
        constraint = Constraint.from_document(document)
    except PlanError:
        return
    assert constraint.accuracy is None or 0 <= constraint.accuracy <= 1
