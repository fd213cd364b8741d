"""`Parcel`: a frame on its way to a service, and as it comes back."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from vdag._native import header as native_header
from vdag.transport import context as wire_context
from vdag.transport import messages
from vdag.transport.encoders import pixels_of
from vdag.transport.shelf import without_pixels

if TYPE_CHECKING:
    from vdag._native.ring import SlotRef, View
    from vdag.control.rest.bodies import Found
    from vdag.graph import Graph
    from vdag.transport.codec import Descriptor, Head

__all__ = ["Parcel", "User", "times_of", "with_found"]


class User(NamedTuple):
    """A job whose frames go to a service.

    Attributes:
        graph: of it, with its edges written out.
        policy: what becomes of its frames when they wait.
    """

    graph: Graph
    policy: Literal["block", "latest"]


@dataclass(slots=True, eq=False)
class Parcel:
    """A frame that is to be posted, and the lease on its pixels.

    Attributes:
        head: of its descriptor.
        part: the descriptor.
        view: the lease, until `release`; None for a frame without a slot.
        user: the job.
        offered_ns: when it came.
    """

    head: Head
    part: bytes
    view: View | None
    user: User
    offered_ns: int

    @property
    def task(self) -> str:
        """What is to be done with it."""
        return self.head.route[self.head.header.hop].task

    @property
    def path(self) -> str:
        """What to post it to; services that know no models pass over the one it asks for."""
        hop = self.head.route[self.head.header.hop]
        path = f"/execute_task/{urllib.parse.quote(hop.task, safe='')}"
        return path if hop.model is None else f"{path}?model_id={hop.model}"

    def generated(self, descriptor: Descriptor) -> dict[str, Any]:
        """Return what the generator has produced; the pixels are views of the lease, read only.

        Raises:
            FrameFormatError: the slot does not hold what the descriptor says.
        """
        found: dict[str, Any] = {"seq": descriptor.header.seq}
        if self.view is not None:
            found["image"] = pixels_of(descriptor.header, self.view)
        return found

    def onward(self, context: bytes) -> tuple[bytes, SlotRef | None]:
        """Return the descriptor at the next hop, and the lease that travels with it.

        Args:
            context: that it has there, packed.

        Raises:
            FrameFormatError: the context is too long.
        """
        head, reference = self.head, None
        header = head.header.replace(hop=head.header.hop + 1, context_nbytes=len(context))
        route_end = native_header.HEADER_NBYTES + header.route_nbytes
        route = self.part[native_header.HEADER_NBYTES : route_end]
        payload = self.part[route_end + head.header.context_nbytes :]
        if header.hop == len(head.route) - 1:  # home, where the pixels are already
            header, payload = without_pixels(header), b""
        elif self.view is not None:
            reference = self.view.share()
            header = header.replace(generation=reference.generation)
        return b"".join((native_header.pack(header), route, context, payload)), reference

    def release(self) -> None:
        """Give the pixels up; may be called again."""
        if self.view is not None:
            self.view.release()
            self.view = None


def with_found(descriptor: Descriptor, task: str, found: Found, times: list[int]) -> bytes:
    """Return the context of a frame with what a task has found in it, packed.

    Raises:
        FrameFormatError: it cannot travel.
    """
    context = dict(descriptor.context)
    context[task] = found.outputs
    context[messages.TIMES] = {**context.get(messages.TIMES, {}), task: times}
    return b"".join(wire_context.pack(context))


def times_of(found: Found, offered_ns: int, begun_ns: int, ended_ns: int) -> list[int]:
    """Return when a task was done, in the form of `messages.TIMES`.

    The service says what its work took; the rest of the request is the way there and the way back,
    which are taken to be the same. What the frame waited for its turn is put in front of the work,
    as if it had waited over there.

    Args:
        found: what the service has answered.
        offered_ns: when the frame came to wait.
        begun_ns: when it was its turn.
        ended_ns: when the answer was there.
    """
    whole_ns = ended_ns - begun_ns
    compute_ns = min(found.compute_ns or whole_ns, whole_ns)
    start_ns = begun_ns + (whole_ns - compute_ns) // 2
    return [start_ns, start_ns + compute_ns, found.pid, start_ns - (begun_ns - offered_ns)]
