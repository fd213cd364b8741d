"""What Schemathesis makes of the interface's description, sent to a node that has every task."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_kit import ROOT, Caller, Running

HERE = Path(__file__).parent
KIT = HERE.parent / "kit"
#: Longer runs by hand: VDAG_SCHEMATHESIS_S=600.
TIME_S = int(os.environ.get("VDAG_SCHEMATHESIS_S", "60"))
#: No request may take longer; the longest wait of the service is that for a worker to start, 60 s.
REQUEST_TIMEOUT_S = 120
#: All but those on what a schema says of requests: it cannot say what a picture is, which tasks
#: have a worker to spare, or which pid is whose; and fields that are unknown are ignored.
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_headers_conformance", "response_schema_conformance", "unsupported_method",
    "allow_header_conformance",
)  # fmt: skip
TASK = """
import vdag

@vdag.task(outputs=["brightness"])
def brightness(image, weight=1.0):
    return {"brightness": float(image.mean())}
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Running]:
    module = tmp_path / "brightness.py"
    module.write_text(TASK)
    tasks = ("face_detection", "face_alignment", "car_detection", "helmet_detection", "brightness")
    node = Running(
        "--set", f"service.tasks={{{', '.join(f'{task} = {{max_batch = 2}}' for task in tasks)}}}",
        "--set", f"service.modules=['{module}']",
        "--set", f"service.packages={{folder='{tmp_path / 'packages'}'}}",
        "--set", "service.slots=[[640, 480, 24], [1280, 720, 4]]",
        "--set", "service.max_body_nbytes=8388608",
        "--set", "service.deadline_s=5",
    )  # fmt: skip
    yield node
    assert node.stop() == 0, "".join(node.log)


@pytest.mark.slow
def test_no_request_that_the_description_yields_is_answered_as_it_does_not_say(node, tmp_path):
    ended = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", HERE / "schemathesis.toml",
            "run", f"{node.url}/openapi.json", "--max-time", str(TIME_S),
            "--request-timeout", str(REQUEST_TIMEOUT_S), "--checks", ",".join(CHECKS),
            "--continue-on-failure", "--warnings", "off",
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": f"{KIT}{os.pathsep}{ROOT}",
            "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
        },
        capture_output=True,
        text=True,
        timeout=10 * TIME_S + 600,
    )  # fmt: skip
    print(ended.stdout)
    assert re.search(r"Fuzzing.*\n\n.*[1-9]\d* passed", ended.stdout), "nothing was sent"
    assert ended.returncode == 0, ended.stdout + ended.stderr
    caller = Caller(node.url)
    assert caller.get("/healthz").status == 200
    caller.close()
    assert "Traceback" not in "".join(node.log)
