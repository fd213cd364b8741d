"""`Office`: what the coordinator's thread has done: placing, ordering, recording, watching.

It knows the nodes, services and handler types of the files, has both kinds of nodes ordered about,
and writes down what becomes of sessions. It decides nothing about their states: see `SessionBook`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from vdag.control.controller.backlog import Backlog
from vdag.control.coordination.cuts import blueprints
from vdag.control.coordination.documents import check_algorithm
from vdag.control.coordination.placing import Placement
from vdag.control.coordination.types import RX, HandlerType
from vdag.control.coordination.values import Node, Service
from vdag.control.coordinator.foreign import ForeignNodes
from vdag.control.coordinator.graphs import chart_of
from vdag.control.coordinator.learned import Learned
from vdag.control.coordinator.memory import Remembered, blueprint_of
from vdag.control.coordinator.ours import OurNodes, Probe
from vdag.control.coordinator.placer import POLICY, Placer, split_algorithm
from vdag.control.coordinator.rehearsal import Rehearsal
from vdag.control.coordinator.roster import Roster
from vdag.control.coordinator.states import Patience, Session, State
from vdag.control.coordinator.steps import Event, Step
from vdag.control.coordinator.values import (
    Deployment,
    SessionRequest,
    SessionView,
    pinned,
    placement_document,
)
from vdag.control.coordinator.watching import Watch
from vdag.control.records import Handler, NewSession, NodeRecord, Store
from vdag.errors import NotFound, PlanError, VdagError

__all__ = ["Office"]

logger = logging.getLogger(__name__)

#: Frames that were under way when a session changed over have come home by then.
GRACE_NS = 3_000_000_000
#: Between two times that what was learned is recorded.
SAVE_NS = 10_000_000_000


class Office:
    """See above; for one thread, but for `nodes`, `services` and `types`, which never change.

    Args:
        nodes: of the files.
        services: likewise.
        types: of handlers.
        ours: nodes that speak the plan channel.
        foreign: those that speak http.
        store: the records.
        patience: with nodes.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        services: Sequence[Service],
        types: Mapping[int, HandlerType],
        *,
        ours: OurNodes,
        foreign: ForeignNodes,
        store: Store,
        patience: Patience,
    ) -> None:
        self.nodes, self.types = tuple(nodes), types
        self.services = {service.service_id: service for service in services}
        self._ours, self._foreign, self._store = ours, foreign, store
        self._patience = patience
        self._placer = Placer(types, Learned(store.log.lessons()))
        self._watch = Watch(ours, self._placer, nodes)
        self._rehearsal = Rehearsal(ours, self._placer, nodes)
        self._backlog = Backlog()
        self._leaving: list[tuple[int, Deployment]] = []
        self._recorded: dict[int, NodeRecord] = {}  # nodes, as the records have them
        self._ports: dict[int, dict[int, set[int]]] = {}  # of rx, by session and node
        self._next_save_ns = 0
        self._unheld: dict[int, set[int]] = {}  # nodes that have not joined again, by session
        self._record_nodes()

    def roster(self) -> Roster:
        """Return which nodes have joined; by any thread."""
        return self._ours.roster(self.nodes)

    # Creating.

    def prepare(self, request: SessionRequest) -> Deployment:
        """Return a session without a number, placed.

        Raises:
            NotFound: there is no such service, or a pin names no node.
            ConfigError: there is no such algorithm, or a handler cannot be what it is to be.
            GraphError: the service cannot be a job.
            PlanError: there is no placement.
        """
        service = self.services.get(request.service_id)
        if service is None:
            raise NotFound(f"service {request.service_id} is of no service file")
        roster = self.roster()
        for handler_id, node_id in request.pins.items():
            self._check_pin(service, handler_id, roster.node(node_id))
        if request.algorithm:
            check_algorithm(request.algorithm)
        service = pinned(service, request.pins, request.algorithm)
        service, nodes = self._placer.settle(service, roster)
        is_ours = nodes[0].speaks == "vdag"
        chart = chart_of(service, self.types, 0) if is_ours else None
        there = [node for node in nodes if roster.is_there(node.node_id)]
        placement = self._placer.place(service, there, self._ours.situation(service, chart, roster))
        found = Deployment(
            0,
            request.name or service.name,
            service,
            nodes[0].speaks,
            placement,
            chart=chart,
            created_s=time.time(),
        )
        if is_ours and split_algorithm(service.algorithm)[0] == POLICY:
            found.open_to = {
                node.node_id: frozenset(
                    each.handler_id
                    for each in service.handlers
                    if node.offers(each.kind) and each.node_id in (None, node.node_id)
                )
                for node in there
            }
        if not is_ours:
            self._cut(found, nodes)
        return found

    def _check_pin(self, service: Service, handler_id: int, node: Node) -> None:
        spec = service.by_id.get(handler_id)
        if spec is None:
            raise NotFound(f"service {service.service_id} has no handler {handler_id}")
        if not node.offers(spec.kind):
            kind = self.types[spec.kind].name
            raise PlanError(f"{spec}: node {node.node_id} {node.name} has no {kind}")

    def record(self, deployment: Deployment) -> Future[int]:
        """Record a session that is prepared; the result is its number."""
        self._record_nodes()
        handlers = [
            Handler(each.handler_id, each.name, each.kind, dict(each.params))
            for each in deployment.service.handlers
        ]
        return self._store.log.add_session(
            NewSession(
                deployment.name,
                deployment.service.name,
                handlers,
                algorithm=deployment.service.algorithm,
                blueprint=blueprint_of(deployment),
            )
        )

    def number(self, deployment: Deployment, session_id: int) -> Deployment:
        """Return a session that is prepared under its number.

        Raises:
            VdagError: it cannot be after all; it is recorded as failed.
        """
        deployment.session_id = session_id
        try:
            if deployment.chart is not None:
                deployment.chart = chart_of(deployment.service, self.types, session_id)
            if deployment.blueprints:  # another session may have taken its ports meanwhile
                self._cut(deployment, [node for node in self.nodes if node.speaks == "http"])
        except VdagError as err:
            self.note(deployment, State.FAILED.value, str(err))
            raise
        self._take_ports(deployment)
        return deployment

    def take_up(self, session: Remembered) -> Deployment:
        """Go on with a session that the coordinator had before it was started anew."""
        deployment, state = session
        if state is State.RUNNING and deployment.query_id:
            self._ours.adopt(deployment)
            self._unheld[deployment.session_id] = set(deployment.nodes)
        self._take_ports(deployment)
        return deployment

    # Carrying out.

    def order(self, deployment: Deployment, node_id: int, step: Step) -> Probe:
        """Have a node take a step.

        Raises:
            VdagError: it cannot even be told.
        """
        if deployment.speaks == "http":
            future = self._foreign.order(
                self.roster().node(node_id),
                deployment.session_id,
                step,
                timeout_s=self._patience.of(step),
                blueprint=deployment.blueprints.get(node_id) if step == "init" else None,
            )
            return lambda: future.result() if future.done() else None
        roster = self.roster()
        if step == "init":
            return self._rehearsal.init(deployment, node_id, roster)
        if step == "delete":
            self._ours.let_go(deployment, roster)
        elif node_id == deployment.home:
            if step == "start":
                self._rehearsal.foretell(deployment, roster)
                return self._ours.start(deployment, roster)
            return self._ours.stop(deployment, roster)
        return lambda: ""

    def switch(self, deployment: Deployment) -> Probe:
        """Have a session follow the placement that it moves to."""
        return self._ours.switch(deployment, self.roster())

    def moved(self, deployment: Deployment) -> None:
        """Note that a session follows the placement that it has moved to."""
        if deployment.target is not None:
            deployment.placement, deployment.target = deployment.target, None
            deployment.cause = deployment.target_cause
            deployment.changed_s = time.time()
            self._record_place(deployment)

    def forget(self, deployment: Deployment, now_ns: int, *, is_moved: bool) -> None:
        """Have nodes forget what they do not need any more, when no frame is under way there."""
        deployment.target = None
        self._leaving.append((now_ns + (GRACE_NS if is_moved else 0), deployment))

    def tick(self, now_ns: int) -> None:
        """Do what is due."""
        self._backlog.flush()
        if now_ns >= self._next_save_ns:
            self._next_save_ns = now_ns + SAVE_NS
            self.save()
        due = [each for when_ns, each in self._leaving if now_ns >= when_ns]
        self._leaving = [(when, each) for when, each in self._leaving if now_ns < when]
        for deployment in due:
            if deployment.target is None and deployment.session_id:
                self._ours.let_go(deployment, self.roster(), deployment.nodes)

    def save(self) -> None:
        """Record what was learned since the last time."""
        if lessons := self._placer.learned.changes():
            self._backlog.put(lambda: self._store.log.set_lessons(lessons))

    def watch(self, deployment: Deployment, session: Session, now_ns: int) -> list[Event]:
        """Return what has happened to a session that nobody has told."""
        if deployment.session_id in self._unheld:
            self._hold_again(deployment)
        before = deployment.placement
        found = self._watch.look(deployment, session, now_ns)
        if deployment.placement is not before:
            self._ours.hold(deployment, self.roster())
            self._record_place(deployment)
            self._leaving.append((now_ns + GRACE_NS, deployment))
        return found

    def _hold_again(self, deployment: Deployment) -> None:
        """Hold the tasks of a session at those of its nodes that have joined by now."""
        waiting, roster = self._unheld[deployment.session_id], self.roster()
        for node_id in tuple(waiting):
            known = roster.known(node_id)
            if known is not None:
                self._ours.init(deployment, known.node_addr, deployment.tasks_on(node_id))
                waiting.discard(node_id)
        if not waiting:
            del self._unheld[deployment.session_id]

    # Recording and showing.

    def note(self, deployment: Deployment, state: str, reason: str) -> None:
        """Record how a session stands."""
        session_id = deployment.session_id
        if reason:
            logger.info("session %d is %s: %s", session_id, state, reason)
        else:
            logger.info("session %d is %s", session_id, state)
        log = self._store.log
        self._backlog.put(lambda: log.set_session_state(session_id, state, reason))
        if state == State.RUNNING and not deployment.changed_s:
            deployment.changed_s = time.time()
            self._watch.follow(deployment)
            self._record_place(deployment)
        elif state in (State.STOPPED, State.FAILED, State.DELETED):
            self._backlog.put(lambda: log.place(session_id, {}, state))
        if state == State.DELETED:
            self._leaving = [each for each in self._leaving if each[1] is not deployment]
            self._ports.pop(session_id, None)
            self._unheld.pop(session_id, None)
            self._watch.forget(session_id)

    def view(self, deployment: Deployment, session: Session | None) -> SessionView:
        """Return how a session stands; without one in the book it is deleted."""
        service = deployment.service
        document = placement_document(deployment.placement, deployment.cause, deployment.changed_s)
        return SessionView(
            deployment.session_id,
            deployment.name,
            service.service_id,
            service.name,
            service.algorithm,
            deployment.speaks,
            (State.DELETED if session is None else session.state).value,
            "" if session is None else session.reason or deployment.trouble,
            deployment.query_id,
            {**document, "measured": self._watch.measured(deployment)},
            session is None or session.is_settled,
            session is not None and session.move is not None,
            deployment.created_s,
        )

    def _record_place(self, deployment: Deployment) -> None:
        placement: Placement = deployment.placement
        cause = f"{deployment.cause}: {placement.why}"
        session_id, nodes = deployment.session_id, dict(placement.nodes)
        self._backlog.put(lambda: self._store.log.place(session_id, nodes, cause))

    def _record_nodes(self) -> None:
        """Record the nodes of the files; those that have joined by the address that they say."""
        roster = self.roster()
        news = []
        for node in self.nodes:
            known, addr, port = roster.known(node.node_id), node.addr, node.port
            if known is not None:
                host, _, text = known.node_addr.rpartition(":")
                addr, port = host.strip("[]"), int(text)
            record = NodeRecord(node.node_id, node.name, node.kind, addr, port)
            if self._recorded.get(node.node_id) != record:
                self._recorded[node.node_id] = record
                news.append(record)
        if news:
            self._backlog.put(lambda: self._store.log.set_nodes(news))

    # Nodes that speak http.

    def _cut(self, deployment: Deployment, nodes: Sequence[Node]) -> None:
        taken: dict[int, set[int]] = {}
        for ports in self._ports.values():
            for node_id, numbers in ports.items():
                taken.setdefault(node_id, set()).update(numbers)
        found = blueprints(deployment.service, deployment.placement.nodes, nodes, taken=taken)
        deployment.blueprints = {each.node_id: each.document(self.types) for each in found}

    def _take_ports(self, deployment: Deployment) -> None:
        ports: dict[int, set[int]] = {}
        for node_id, blueprint in deployment.blueprints.items():
            handlers: list[Mapping[str, Any]] = blueprint["handlers"]
            ports[node_id] = {h["params"]["port"] for h in handlers if h["handler_type"] == RX}
        if ports:
            self._ports[deployment.session_id] = ports
