"""vdag: video analytics as a graph of tasks over edge nodes and GPU servers."""

# General layout, each line importing only from the lines below it:
#
#   cli                     the commands
#   node  control  config   the daemon; REST, scheduler, records, jobs, limits of workers; settings
#   pipeline                a graph over a source: by threads, or by worker processes
#   job       workers       frames out and results home; processes started, watched, replaced
#   worker                  one process: a task at work on the frames it is handed
#   sources  sinks  tasks   where frames come from, where results go, what looks at the frames
#   engines  transport      what runs the models; how frames travel and where they wait
#   frame graph plan results  values and rules, without clock, thread or socket
#   _native                 kernels in C and Cython, each with its twin in numpy
#   errors                  every exception
#
# Frames go one way: source -> task -> (task ...) -> sink. Nothing below imports the heavy libraries
# (OpenCV, FFmpeg, ONNX Runtime) before something that needs them is constructed.

from __future__ import annotations

from vdag._version import __version__
from vdag.errors import VdagError
from vdag.frame import Frame, PixelFormat
from vdag.graph import Graph, Signature
from vdag.pipeline import Pipeline
from vdag.results import Result
from vdag.sinks import open_sink
from vdag.sources import ClipGenerator, SingleFrameGenerator, open_source
from vdag.tasks import Task, TaskOptions, register, task

__all__ = [
    "ClipGenerator",
    "Frame",
    "Graph",
    "Pipeline",
    "PixelFormat",
    "Result",
    "Signature",
    "SingleFrameGenerator",
    "Task",
    "TaskOptions",
    "VdagError",
    "__version__",
    "open_sink",
    "open_source",
    "register",
    "task",
]
