"""How fast the objects of a video move, from the boxes of one processed frame and the next.

Boxes of two frames are matched greedily: the two that overlap most are one object, then the two
among the others that do, and so on down to an IoU of 0.1. An object's speed is the way of its box's
centre, in pixels of a 1080p picture, by the time between the two frames in the video, and a frame's
speed that of its fastest object. Where hardly any of many boxes overlaps with one of the frame
before, the scene is another one, or the frames are too far apart to tell: nothing has a speed then.
"""

from __future__ import annotations

from typing import NamedTuple

from vdag import _native as native
from vdag.control.sniffing.sightings import FULL_HD, Boxes, Objects

__all__ = ["MAX_BOXES", "MAX_SPEED", "Motion", "Scene"]

#: Boxes that overlap by less are two objects, as in the documents.
MIN_IOU = 0.1
#: Boxes of a frame that are followed, the first ones: detectors put the surest first.
MAX_BOXES = 128
#: With fewer boxes in either frame, a scene cut cannot be told from objects that come and go.
CUT_BOXES = 4
#: It is one if not even this share of the boxes of the poorer frame has a match.
CUT_SHARE = 0.25
#: Frames that are less than this apart in the video are none that follow each other.
MIN_INTERVAL_S = 1e-4
#: A picture's width in a millisecond.
MAX_SPEED = 2e6


class Motion(NamedTuple):
    """What has become of the objects of the frame before; see `Sighting`."""

    speed: float | None
    is_cut: bool = False


UNKNOWN = Motion(None)


class Scene:
    """The frame before, to hold the next one against; for one thread."""

    def __init__(self) -> None:
        self._boxes: Boxes | None = None
        self._size = 0, 0
        self._time_s: float | None = None

    def look(self, objects: Objects | None, size: tuple[int, int], time_s: float | None) -> Motion:
        """Compare a frame with the one before, and remember it.

        Args:
            objects: in it, None if nobody has looked for any.
            size: width and height of the frame that its boxes are in; they are not compared with
                those of a frame of another size.
            time_s: of the frame in the video, None if that has no times.
        """
        boxes = None if objects is None or objects.boxes is None else objects.boxes[:MAX_BOXES]
        before, before_s, is_same = self._boxes, self._time_s, size == self._size
        self._boxes, self._time_s, self._size = boxes, time_s, size
        if objects is not None and not objects.n:
            return Motion(0.0)
        if before is None or boxes is None or not is_same:
            return UNKNOWN
        matched, way = native.motion.longest_way(
            before,
            boxes,
            iou=MIN_IOU,
            x=FULL_HD[0] / max(size[0], 1),
            y=FULL_HD[1] / max(size[1], 1),
        )
        least = min(len(before), len(boxes))
        if least >= CUT_BOXES and matched < CUT_SHARE * least:
            return Motion(None, is_cut=True)
        if not matched or time_s is None or before_s is None:
            return UNKNOWN
        interval_s = time_s - before_s
        if not interval_s >= MIN_INTERVAL_S:  # the video has gone back
            return UNKNOWN
        return Motion(min(way / interval_s, MAX_SPEED))
