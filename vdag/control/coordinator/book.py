"""`SessionBook`: how sessions stand, and what follows from what happens to them: a pure rule.

    created -> initialising -> initialized -> starting -> running -> stopping -> stopped
                    |                            |           |                      |
                    +-------------+--------------+-----------+                      v
                                  v                                   deleting -> deleted
                               failed

A step, such as `init`, is ordered of all nodes of a session at once, and over when each has
answered, or its time is. One that has not succeeded ends the session as failed, with the reason;
what was begun is then undone: stopped where it was started, deleted everywhere. A session can be
deleted in any state: what has to come before is done first.

While a session runs it may *move*: nodes that gain handlers are to init them, and only then the
session changes over, and only then those that have lost some may forget them. A move that fails
leaves the session as it was.

Time comes with each event. An event about a step that nobody waits for any more changes nothing; a
wish that makes no sense now raises, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from vdag.control.coordinator.states import (
    AFTER,
    DURING,
    TAKES,
    Move,
    Patience,
    Session,
    State,
)
from vdag.control.coordinator.steps import (
    Answered,
    Began,
    Event,
    Forget,
    Instruction,
    Lost,
    Moved,
    MoveWanted,
    Note,
    Order,
    Over,
    Step,
    SwitchOver,
    Tick,
    Wanted,
)
from vdag.errors import InvalidTransition

__all__ = ["Patience", "Session", "SessionBook", "State"]


class SessionBook:
    """See above; for one thread.

    Args:
        patience: with nodes.
    """

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._sessions: dict[int, Session] = {}
        self._out: list[Instruction] = []

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def get(self, session_id: int) -> Session | None:
        """Return a session; None if it is not known, or deleted."""
        return self._sessions.get(session_id)

    def next_due_ns(self) -> int | None:
        """Return when a `Tick` has something to do next, None for not before an event."""
        due = [each.due_ns for each in self if each.step is not None]
        due += [each.move.due_ns for each in self if each.move is not None]
        return min(due, default=None)

    def handle(self, event: Event) -> list[Instruction]:
        """Take note of what has happened, and return what to do, in its order.

        Raises:
            InvalidTransition: a wish makes no sense in the session's state.
        """
        if isinstance(event, Tick):
            for each in tuple(self):
                self._expire(each, event.now_ns)
        elif isinstance(event, Began):
            self._begin(event)
        elif (session := self._sessions.get(event.session_id)) is not None:
            self._take(session, event)
        elif isinstance(event, Wanted):
            raise InvalidTransition(f"session {event.session_id}", "ABSENT", event.wish, ())
        out, self._out = self._out, []
        return out

    def _take(
        self, session: Session, event: Wanted | Answered | Over | MoveWanted | Moved | Lost
    ) -> None:
        if isinstance(event, Wanted):
            self._wish(session, event)
        elif isinstance(event, Answered):
            self._answer(session, event)
        elif isinstance(event, Over):
            self._end(session, event)
        elif isinstance(event, MoveWanted):
            self._move(session, event)
        elif isinstance(event, Moved):
            self._moved(session, event)
        else:
            self._lose(session, event)

    # Wishes.

    def _begin(self, event: Began) -> None:
        session = Session(event.session_id, event.nodes)
        self._sessions[event.session_id] = session
        if event.is_running:
            session.state, session.ordered = State.RUNNING, set(event.nodes)
            self._note(session)
            return
        self._go(session, ["init"], event.now_ns)

    def _wish(self, session: Session, event: Wanted) -> None:
        if session.state not in TAKES[event.wish]:
            raise InvalidTransition(
                f"session {session.session_id}", session.state.value, event.wish, ()
            )
        if event.wish == "start":
            if "start" not in session.todo:
                self._follow(session, ["start"], event.now_ns)
        elif event.wish == "stop":
            self._drop_move(session)
            self._go(session, ["stop"], event.now_ns)
        else:
            self._delete(session, event.now_ns)

    def _delete(self, session: Session, now_ns: int) -> None:
        session.is_leaving = True
        self._drop_move(session)
        if session.state in (State.STARTING, State.RUNNING):
            self._go(session, ["stop", "delete"], now_ns)
        elif session.state is State.STOPPING:
            session.todo = ["delete"]
        elif session.state is not State.DELETING and not (
            session.state is State.FAILED and session.step is not None
        ):
            self._go(session, ["delete"], now_ns)

    # What nodes say.

    def _answer(self, session: Session, event: Answered) -> None:
        move = session.move
        if event.step == session.step and event.node_id in session.waiting:
            session.waiting.discard(event.node_id)
            if event.reason:
                self._refuse(session, event)
            if session.step == event.step and not session.waiting:
                self._complete(session, event.now_ns)
        elif move is not None and event.step == "init" and event.node_id in move.nodes:
            move.nodes.discard(event.node_id)
            if event.reason:
                self._fail_move(session, f"node {event.node_id}: {event.reason}")
            elif not move.nodes:
                self._switch(session, event.now_ns)

    def _refuse(self, session: Session, event: Answered) -> None:
        """A node could not take a step: going on is no use, ending goes on."""
        reason = f"node {event.node_id}: {event.reason}"
        if event.step in ("init", "start") and session.state is not State.FAILED:
            self._fail(session, reason, event.now_ns)
        else:
            session.reason = session.reason or f"{event.step}: {reason}"

    def _complete(self, session: Session, now_ns: int) -> None:
        step, session.step = session.step, None
        assert step is not None, "the caller has looked"
        if step == "delete":
            session.ordered.clear()
        if session.state is not State.FAILED:
            session.state = AFTER[step]
        elif session.is_leaving and not session.todo:
            session.state = State.DELETED
        self._note(session)
        if session.todo:
            self._go(session, session.todo, now_ns)
        elif session.state is State.DELETED:
            del self._sessions[session.session_id]

    def _end(self, session: Session, event: Over) -> None:
        """The session's own work is over, for better or worse."""
        if session.state not in (State.STARTING, State.RUNNING):
            return
        self._drop_move(session)
        if event.has_failed:
            self._fail(session, event.reason, event.now_ns)
        else:
            session.reason = event.reason
            self._go(session, ["stop"], event.now_ns)

    def _lose(self, session: Session, event: Lost) -> None:
        """A node is gone: it answers nothing more, and need not be waited for at the end."""
        if session.move is not None and event.node_id in session.move.nodes:
            self._fail_move(session, event.reason)
        if event.node_id in session.waiting and session.step is not None:
            answer = Answered(
                event.now_ns, session.session_id, event.node_id, session.step, event.reason
            )
            self._answer(session, answer)

    def _expire(self, session: Session, now_ns: int) -> None:
        move = session.move
        if move is not None and now_ns >= move.due_ns:
            self._fail_move(session, "nodes have not changed over in time")
        if session.step is None or now_ns < session.due_ns:
            return
        wait_s = self._patience.of(session.step)
        for node_id in sorted(session.waiting):
            if session.step is None or node_id not in session.waiting:
                break  # the first of them has ended the step
            reason = f"no answer within {wait_s:g} s"
            answer = Answered(now_ns, session.session_id, node_id, session.step, reason)
            self._answer(session, answer)

    # Moves.

    def _move(self, session: Session, event: MoveWanted) -> None:
        if session.state is not State.RUNNING or session.move is not None:
            return
        due_ns = event.now_ns + int(self._patience.init_s * 1e9)
        session.move = Move(event.cause, due_ns, set(event.gains))
        session.nodes = tuple(dict.fromkeys((*session.nodes, *event.gains)))
        session.ordered.update(event.gains)
        self._out += [Order(session.session_id, node, "init") for node in event.gains]
        if not event.gains:
            self._switch(session, event.now_ns)

    def _switch(self, session: Session, now_ns: int) -> None:
        assert session.move is not None, "the caller has looked"
        session.move.due_ns = now_ns + int(self._patience.move_s * 1e9)
        self._out.append(SwitchOver(session.session_id))

    def _moved(self, session: Session, event: Moved) -> None:
        if session.move is None or session.move.nodes:
            return
        if event.reason:
            self._fail_move(session, event.reason)
            return
        session.nodes = event.nodes
        session.reason = ""
        cause, session.move = session.move.cause, None
        self._out.append(Forget(session.session_id, event.nodes, cause))
        self._note(session)

    def _fail_move(self, session: Session, reason: str) -> None:
        assert session.move is not None, "the caller has looked"
        session.reason = f"not moved ({session.move.cause}): {reason}"
        self._drop_move(session)
        self._note(session)

    def _drop_move(self, session: Session) -> None:
        if session.move is not None:
            session.move = None
            self._out.append(Forget(session.session_id, None, ""))

    # Steps.

    def _follow(self, session: Session, steps: list[Step], now_ns: int) -> None:
        """Take steps after those that are under way."""
        if session.step is None:
            self._go(session, steps, now_ns)
        else:
            session.todo += steps

    def _go(self, session: Session, steps: list[Step], now_ns: int) -> None:
        """Take steps in place of all that was to come; the first of them now."""
        step, *session.todo = steps
        targets = tuple(session.ordered) if step == "delete" else session.nodes
        session.step, session.waiting = step, set(targets)
        session.due_ns = now_ns + int(self._patience.of(step) * 1e9)
        if session.state is not State.FAILED:
            session.state = DURING[step]
            self._note(session)
        if step == "init":
            session.ordered.update(targets)
        self._out += [Order(session.session_id, node, step) for node in sorted(targets)]
        if not targets:
            self._complete(session, now_ns)

    def _fail(self, session: Session, reason: str, now_ns: int) -> None:
        """End it as failed, and undo what was begun."""
        was_started = session.state in (State.STARTING, State.RUNNING)
        session.state, session.reason = State.FAILED, reason
        self._note(session)
        steps: list[Step] = ["stop", "delete"] if was_started else ["delete"]
        self._go(session, steps, now_ns)

    def _note(self, session: Session) -> None:
        self._out.append(Note(session.session_id, session.state.value, session.reason))
