"""Long runs: what a short one cannot show."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from vdag import Pipeline, SingleFrameGenerator, open_sink

#: Less than 3 KiB per frame of the second part: any picture that stays is far more.
GROWTH_NBYTES = 8 << 20


@pytest.mark.slow
def test_memory_is_flat_over_five_thousand_frames(carphone: Path, tmp_path: Path):
    process = psutil.Process()
    with (
        SingleFrameGenerator(carphone, loop=True) as source,
        Pipeline(["face_detection", "face_alignment"], source) as run,
        open_sink(tmp_path / "out.jsonl") as lines,
    ):
        for result in run:
            lines.write(result)
            result.drop_frame()
            if result.seq == 2000:
                settled = process.memory_info().rss
                handles = process.num_fds(), process.num_threads()
            elif result.seq == 5000:
                break
        assert process.memory_info().rss - settled < GROWTH_NBYTES
        assert (process.num_fds(), process.num_threads()) == handles
        assert run.stats().read == run.stats().delivered + run.stats().in_flight
