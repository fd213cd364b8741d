"""A node that limits a worker, says so, and waits to be killed.

    python limits_owner.py PREFIX

Prints the pid of the worker, which outlives it.
"""

from __future__ import annotations

import signal
import subprocess
import sys

from vdag.control.limits import Limit, Limits

worker = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
limits = Limits(sys.argv[1])
limits.limit_task("face_detection", [worker.pid], Limit(0.5, 0.5, (0,)))
print(worker.pid, flush=True)
signal.pause()
