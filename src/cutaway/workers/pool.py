"""The engine that spreads shards over Ray actors: who runs what, who died, and what is given up.

A shard goes to whoever is free. If its worker dies, or it ends in an error, it is run again, by another worker where
there is one; after `TRIES` it is given up, and the others go on.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections import Counter
from collections.abc import Collection, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayError

from ..engine.engines import Queue, Shard, Tell
from ..engine.work import Arrays, Work
from ..errors import BadInput
from ..resume.keeping import fingerprint_of
from ..resume.manifest import machine
from .packing import pack, parts_of
from .worker import MEMORY, UNLIKE, Failure, Worker

if TYPE_CHECKING:
    from ..model import Model

TRIES = 3
"""How often a shard is run before it is given up."""

PATIENCE = 60.0
"""Seconds without a word from any worker after which a person is told."""

LEAST, TIMES, FIRST = 300.0, 20.0, 3600.0
"""A worker that has a shard for longer than `LEAST` seconds, and `TIMES` as long as the slowest shard of the sweep so
far, hangs: it is ended. Before any shard is finished, `FIRST` seconds. A worker's first shard is timed with what it
is sent before it, the model included."""

Place = tuple[int, int]
"""(group, block) of a shard."""


@dataclass(eq=False)
class Actor:
    """A worker's process: what it has been given, and what it is doing."""

    handle: Any
    pid: int | None = None  # None: it has not begun yet
    model: Any = None  # references to what it was given last
    work: Any = None
    group: int | None = None  # at hand
    shard: Place | None = None  # running
    since: float = 0.0  # when it was given that
    hung: float | None = None  # it was ended after so many seconds without an answer


@dataclass
class Job:
    """One sweep."""

    model: Any  # references to what every worker gets
    work: Any
    facts: Mapping[str, Any]
    queue: Queue
    tries: Counter[Place] = field(default_factory=Counter)
    again: list[tuple[Place, Actor]] = field(default_factory=list)  # what failed, and with whom
    finished: int = 0
    deaths: int = 0
    slowest: float | None = None  # seconds of a shard, with what was sent before it

    @property
    def limit(self) -> float:
        """Seconds after which a worker hangs."""
        return FIRST if self.slowest is None else max(LEAST, TIMES * self.slowest)


class Pool:
    """An engine. Workers begin with the first sweep, and keep the model until `close`.

    Args:
        workers: how many; default: as many as the cluster has room for, of this process's number of threads (or of its
            GPUs, for a model on one).
    """

    def __init__(self, workers: int | None = None) -> None:
        self.wanted = workers
        self.actors: list[Actor] = []
        self._model: tuple[Any, ...] = (None, None)  # its state, a reference, and what keeps its identities its own

    def __call__(self, work: Work, queue: Queue, tell: Tell) -> Generator[Shard, None, None]:
        """As `Engine` says.

        Raises:
            BadInput: a worker's machine is unlike this one; something cannot be sent.
            RuntimeError: a worker has not enough memory for the sweep's budget.
        """
        if not queue:
            return
        job = Job(self._sent_model(work.model), _sent(replace(work, kept=None), work.model), _facts(work.model), queue)
        for actor in self.actors:
            actor.shard = None  # of a sweep that was broken off
        self._hire(len(queue), work.model, job)
        waiting = {actor.handle.ready.remote(): actor for actor in self.actors if actor.pid is None}
        while job.queue or job.again or any(actor.shard for actor in self.actors):
            for actor in self.actors:
                place = self._next(actor, job)
                if place is not None:
                    waiting[self._ask(actor, place, job)] = actor
            done, _ = ray.wait(list(waiting), timeout=self._patience(job))
            late = _late(waiting, set(done), job)
            if not done and not late:
                _tell_of_waiting(self.actors)
            for reference in [*done, *late]:
                actor = waiting.pop(reference)
                place, actor.shard = actor.shard, None
                answer = None if reference in late else _answer(reference)
                if answer is None:
                    waiting |= self._replace(actor, work.model, job)
                    hung = actor.hung is not None
                    answer = Failure(f"not finished in {actor.hung:.0f} s" if hung else "its worker's process died")
                elif isinstance(answer, int):
                    actor.pid = answer
                    continue
                if place is None:  # it died before it began
                    continue
                if not isinstance(answer, Failure):
                    job.finished += 1
                    job.slowest = max(job.slowest or 0.0, time.monotonic() - actor.since)
                    tell(len(work.plan.cells_of(place[1])))
                    yield Shard(*place, answer)
                elif answer.kind == MEMORY:
                    raise RuntimeError(answer.what)  # as here: the sweep goes on in smaller pieces
                elif answer.kind == UNLIKE:
                    raise BadInput(_unlike(answer.what))
                else:
                    job.tries[place] += 1
                    if job.tries[place] < TRIES:
                        job.again.append((place, actor))
                    else:
                        yield Shard(*place, {}, f"{answer.what} (tried {TRIES} times)", answer.cell)
            if job.deaths >= TRIES * (1 + len(self.actors)) and not job.finished:
                yield from _given_up(job)
                return

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        for actor in self.actors:
            _end(actor)
        self.actors, self._model = [], (None, None)

    def _patience(self, job: Job) -> float:
        """Seconds until somebody may have to be ended, or a person told."""
        ends = [actor.since + job.limit for actor in self.actors if actor.shard]
        return max(0.1, min([PATIENCE, *(end - time.monotonic() for end in ends)]))

    # -- who does what ------------------------------------------------------------------------------------------------

    def _hire(self, shards: int, model: Model, job: Job) -> None:
        """As many workers as are wanted or fit, and no more than there is to do."""
        cpus, gpus = self._share(model, job)
        whole = ray.cluster_resources()
        fit = int(whole.get("GPU", 0) // gpus) if gpus else int(whole.get("CPU", 1) // cpus)
        for _ in range(min(shards, self.wanted or max(1, fit)) - len(self.actors)):
            self.actors.append(Actor(_started(cpus, gpus)))

    def _share(self, model: Model, job: Job) -> tuple[int, int]:
        """CPUs and GPUs that a worker takes of the cluster."""
        devices = {p.device for p in model.hf.parameters() if p.device.type == "cuda"}
        cpus = int(job.facts["threads"])
        if self.wanted:  # asked for by number: they share what there is
            cpus = min(cpus, max(1, int(ray.cluster_resources().get("CPU", 1)) // self.wanted))
        return cpus, len(devices)

    def _replace(self, actor: Actor, model: Model, job: Job) -> dict[Any, Actor]:
        """Another process in the place of one that died; a reference to its first word."""
        job.deaths += 1
        how = "died" if actor.hung is None else f"did not finish a shard in {actor.hung:.0f} s and was ended"
        print(f"cutaway: a worker {how}; another takes its place.", file=sys.stderr)
        _end(actor)
        new = Actor(_started(*self._share(model, job)))
        self.actors[self.actors.index(actor)] = new
        return {new.handle.ready.remote(): new}

    def _next(self, actor: Actor, job: Job) -> Place | None:
        """What a worker does next; None if it is busy, has not begun, or all that is left is for others."""
        if actor.shard or actor.pid is None:
            return None
        if job.queue:
            elsewhere = {a.group for a in self.actors if a is not actor and a.work is job.work and a.group is not None}
            return job.queue.take(actor.group if actor.work is job.work else None, elsewhere)
        alone = sum(a.pid is not None for a in self.actors) == 1
        for i, (place, not_by) in enumerate(job.again):
            if alone or not_by is not actor:
                del job.again[i]
                return place
        return None

    def _ask(self, actor: Actor, place: Place, job: Job) -> Any:
        """Give a worker a shard, and before it what it lacks; a reference to what comes of it."""
        if actor.model is not job.model:
            actor.handle.hold.remote(job.model)
            actor.model, actor.work = job.model, None
        if actor.work is not job.work:
            actor.handle.begin.remote(job.work, job.facts)
            actor.work = job.work
        actor.shard, actor.group, actor.since = place, place[0], time.monotonic()
        return actor.handle.shard.remote(*place)

    def _sent_model(self, model: Model) -> Any:
        """The model where workers get it; sent again only if it is not what it was."""
        state = _state(model)
        if self._model[0] != state:
            self._model = (None, None)  # the one before makes room
            self._model = (state, _sent(model), model, model.anatomy)
        return self._model[1]


def _started(cpus: int, gpus: int) -> Any:
    """A new actor; Ray does not begin it again by itself."""
    options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
    return ray.remote(Worker).options(**options).remote()


def _end(actor: Actor) -> None:
    with suppress(RayError):
        ray.kill(actor.handle)


def _late(waiting: Mapping[Any, Actor], done: Collection[Any], job: Job) -> list[Any]:
    """What is waited for in vain: of workers that hang."""
    found = []
    for reference, actor in waiting.items():
        overdue = actor.shard and reference not in done and time.monotonic() - actor.since > job.limit
        if overdue and not ray.wait([reference], timeout=0)[0]:  # answered, if this process itself was stopped
            actor.hung = job.limit
            found.append(reference)
    return found


def _answer(reference: Any) -> Arrays | Failure | int | None:
    """What a worker said; None if it died."""
    try:
        return ray.get(reference)
    except RayActorError:
        return None
    except RayError as error:
        return Failure(" ".join(str(error).split())[:300])


def _facts(model: Model) -> dict[str, Any]:
    return machine(model.device)


def _state(model: Model) -> tuple[Any, ...]:
    """What a copy of a model rests on: equal as long as it is as it was."""
    held = [*model.hf.parameters(), *model.hf.buffers()]
    versions = [(0 if t.is_meta else t.data_ptr(), 0 if t.is_inference() else t._version) for t in held]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.hf.modules()]
    return id(model), id(model.anatomy), fingerprint_of(model), versions, hooks


def _sent(value: Any, model: Model | None = None) -> Any:
    """A reference to something in the cluster's memory; of what belongs to `model`, names only.

    Raises:
        BadInput: it cannot be sent, or there is no room.
    """
    try:
        return ray.put(pack(value, {} if model is None else parts_of(model)))
    except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:
        raise BadInput(
            f"Workers cannot be given this {'model' if model is None else 'sweep'}: {error}. What edits and metrics "
            "hold on to must be such that it can be sent: no open files, locks or connections."
        ) from error
    except RayError as error:
        said = " ".join(str(error).split())[:300]
        raise BadInput(
            f"There is no room for it in Ray's object store: {said}. Start Ray with more (--object-store-memory)."
        ) from None


def _unlike(what: str) -> str:
    return (
        f"A worker's machine is unlike this one, so its results would have other bits. {what} (then here, now there). "
        "Use machines of one kind with the same versions."
    )


def _tell_of_waiting(actors: list[Actor]) -> None:
    begun = sum(actor.pid is not None for actor in actors)
    said = f"cutaway: nothing heard for {PATIENCE:.0f} s from {len(actors)} workers, of which {begun} have begun"
    print(f"{said}; a cluster without room lets the others wait.", file=sys.stderr)


def _given_up(job: Job) -> Generator[Shard, None, None]:
    """Everything that is left, where no worker lives long enough."""
    why = f"workers die before they finish anything ({job.deaths} did); their memory may be too small for the model"
    while job.queue:
        yield Shard(*job.queue.take(), {}, why)
    for place, _ in job.again:
        yield Shard(*place, {}, why)
