from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import vdag

HEAVY = ("av", "cv2", "onnxruntime", "vdag.engines", "vdag.sources", "vdag.tasks", "vdag.pipeline")


def test_who_asks_a_profile_loads_no_engine_and_no_decoder():
    program = (
        "import sys, vdag.control.profile, vdag.control.profile.foreign\n"
        "vdag.control.profile.Profile.default()\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    bare = f"import sys, vdag\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    root = str(Path(vdag.__file__).parents[1])
    found = [
        subprocess.run(
            [sys.executable, "-c", each], capture_output=True, text=True, check=True, timeout=60,
            env={"PYTHONPATH": root},
        ).stdout
        for each in (program, bare)
    ]  # fmt: skip
    assert found[0] == found[1]
