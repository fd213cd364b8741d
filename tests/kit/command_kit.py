"""What the commands that speak to a query manager are given, and what they print."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node_kit import ROOT

TASK = """
import vdag

@vdag.task(outputs=["brightness", "count_result"])
def brightness(image):
    return {"brightness": float(image.mean()), "count_result": {"total": 1}}
"""
POLICY = f"{ROOT / 'examples' / 'policy.py'}:sharpest_in_time"

#: Of the video that ends.
FRAMES = 20

SETTINGS = """
[node]
roles = ["all"]
state = "{folder}/state"
limits = "rlimit"

[service]
modules = ["{folder}/user_tasks.py"]
slots = [[960, 540, 16]]
tasks.brightness.workers = 1

[edge]
port = 0
live_port = 0
videos.0 = {{path = "synthetic:320x240@25", type = "test pattern"}}
videos.1 = {{path = "synthetic:320x240@25?frames={frames}", pace = "asap"}}

[cloud]
port = 0
live_port = 0
channel = "tcp://127.0.0.1:0"
period_s = 0.1
policy = "golden"
policies = ["{policy}"]
"""

Vdag = Callable[..., "subprocess.CompletedProcess[str]"]


def rows(ended: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """The rows of a table whose cells are not wrapped."""
    assert (ended.returncode, ended.stderr) == (0, "")
    return [re.split(r"\s{2,}", line.strip()) for line in ended.stdout.splitlines() if line.strip()]


def plan_file(folder: Path, document: Any) -> Path:
    path = folder / "plan.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path
