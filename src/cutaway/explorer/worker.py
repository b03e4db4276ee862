"""One thread has the model; questions wait their turn, tell how far they are, and can be cancelled."""

from __future__ import annotations

import gc
import queue
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import CutawayError
from .answer import Answer, report
from .asking import answered
from .limits import WAITING
from .question import Question
from .refusal import Refusal, parted
from .subject import Subject
from .telling import Cancelled, Teller

Listener = Callable[[str, dict[str, Any]], None]
"""Called with an event's name and data: `progress`, `note` and `early`, then one of `answer`, `error`, `cancelled`."""
KEPT = 64
GIVEN_UP = 8 * WAITING
"""Questions, given-up ones included, of which the worker has not heard yet."""
PATIENCE = 5.0
"""Seconds that the end of everything waits for the worker."""
IDLE = 0.3
"""Seconds without a question, after which what an edit would wait for is measured."""


class Job(Teller):
    """Questions that are being answered for one listener. With several, the answers become one report."""

    def __init__(self, number: int, questions: list[Question], whole: bool, listen: Listener) -> None:
        self.number, self.questions, self.whole, self.listen = number, questions, whole, listen
        self.gone = threading.Event()

    def __call__(self, done: int, total: int) -> None:
        """Tell how far it is.

        Raises:
            Cancelled: nobody asks any more.
        """
        if self.gone.is_set():
            raise Cancelled
        self.listen("progress", {"done": done, "total": total})

    def note(self, words: str) -> None:
        """Say what is done meanwhile."""
        self.listen("note", {"words": words})

    def early(self, answer: Answer) -> None:
        """Show what is there already; of a report nothing."""
        if not self.whole:
            self.listen("early", answer.document())


class Worker:
    """The model and the questions about it.

    Args:
        load: opens the model; called in the worker's thread, when first needed.
        name: what the model is called. options: how it is loaded, by the command line's names (dtype, device, ...).
        verbose: print the traceback of an error that should not happen.
    """

    def __init__(
        self, load: Callable[[], Any], name: str, verbose: bool = False, options: Mapping[str, str | None] | None = None
    ) -> None:
        self.name, self.verbose, self.options = name, verbose, options
        self._load = load
        self._subject: Subject | None = None
        self._queue: queue.Queue[Job | None] = queue.Queue()  # None: no more
        self._jobs: dict[int, Job] = {}
        self._lock = threading.Lock()
        self._count = 0
        self._known: OrderedDict[Question, Answer] = OrderedDict()
        self._prepared = False
        self._unwanted = threading.Event()  # the model that is being loaded
        self.state, self.trouble, self.about = "asleep", "", {}  # type: tuple[str, str, dict[str, Any]]
        self._thread = threading.Thread(target=self._work, name="explorer", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Load the model now, without a question."""
        self._queue.put(Job(0, [], False, lambda event, data: None))

    def ask(self, questions: list[Question], whole: bool, listen: Listener) -> Job:
        """Have questions answered; `whole`: as one report.

        Raises:
            Refusal: too many wait already.
        """
        with self._lock:
            if len(self._wanted()) >= WAITING or len(self._jobs) >= GIVEN_UP:
                raise Refusal(
                    503, f"{WAITING} questions wait already.", "One is answered at a time.", "Cancel one, or wait."
                )
            self._count += 1
            job = Job(self._count, questions, whole, listen)
            self._jobs[job.number] = job
            self._unwanted.clear()
            if self.state == "stopping":
                self.state = "loading"
        self._queue.put(job)
        return job

    def cancel(self, number: int) -> None:
        """Give up a question, and with the last one the model, if it is still being loaded.

        One whose page has gone keeps the model: it may have been loaded anew.

        Raises:
            Refusal: it is not being asked.
        """
        with self._lock:
            job = self._jobs.get(number)
            if job is None:
                raise Refusal(404, "There is no such question.", "It is answered, or was never asked.", "Ask again.")
            job.gone.set()
            if self.state == "loading" and not self._wanted():
                self._unwanted.set()
                self.state = "stopping"

    def _wanted(self) -> list[Job]:
        return [job for job in self._jobs.values() if not job.gone.is_set()]

    def close(self) -> None:
        """Give up everything, and wait a little for the thread to end: in the middle of PyTorch it would take the whole
        process with it when Python ends."""
        with self._lock:
            for job in self._jobs.values():
                job.gone.set()
            self._unwanted.set()
        self._queue.put(None)
        self._thread.join(PATIENCE)

    # -- in the worker's thread -----------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                event, data = self._outcome(job)
            except Cancelled:
                event, data = "cancelled", {}
            except Refusal as error:
                event, data = "error", error.parts
            except CutawayError as error:
                event, data = "error", _parts(str(error))
            except Exception as error:  # noqa: BLE001 - the last place where it can become a message
                if self.verbose:
                    traceback.print_exception(error, file=sys.stderr)
                what = f"Unexpected {type(error).__name__}: {error}"
                do = "Run with -v to see where, and please report it."
                event, data = "error", {"what": what, "why": "This should not happen.", "do": do}
            with self._lock:
                self._jobs.pop(job.number, None)
            job.listen(event, data)

    def _next(self) -> Job | None:
        """The next question. While there is none, what the first edit would wait for is measured."""
        if self._subject is not None and not self._prepared:
            try:
                return self._queue.get(timeout=IDLE)
            except queue.Empty:
                self._prepare(self._subject)
        return self._queue.get()

    def _prepare(self, subject: Subject) -> None:
        """Once, or again after a question came between. What fails here fails again, with a message, when asked for."""
        from .stopping import Stoppable

        try:
            with Stoppable(lambda: not self._queue.empty()):
                subject.prepare()
        except Cancelled:
            return
        except Exception as error:  # noqa: BLE001
            if self.verbose:
                traceback.print_exception(error, file=sys.stderr)
        self._prepared = True

    def _outcome(self, job: Job) -> tuple[str, dict[str, Any]]:
        if job.gone.is_set():
            raise Cancelled
        subject = self._awake()
        from .stopping import Stoppable

        with Stoppable(job.gone.is_set):
            answers = [self._answer(subject, question, job) for question in job.questions]
        if job.whole:
            text = report(answers, subject.name, [q.facts() for q in job.questions])
            return "answer", {"html": text, "name": "explored.html"}
        return "answer", answers[0].document() if answers else {}

    def _answer(self, subject: Subject, question: Question, job: Job) -> Answer:
        if question not in self._known:
            job(0, 1)
            self._known[question] = answered(subject, question, job)
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(question)
        return self._known[question]

    def _awake(self) -> Subject:
        if self._subject is None:
            with self._lock:
                self._unwanted.clear()
                self.state, self.trouble = "loading", ""
            from .stopping import Stoppable

            try:
                with Stoppable(self._unwanted.is_set):
                    model = self._load()
            except Cancelled:
                self.state, self.trouble = "asleep", "Loading was stopped."
                gc.collect()  # what of the model was there already
                raise
            except CutawayError as error:
                self.state, self.trouble = "failed", str(error)
                raise
            except Exception as error:
                self.state, self.trouble = "failed", f"{type(error).__name__}: {error}"
                raise
            self._subject = Subject(model, self.name, self.options)
            self.about = {
                "layers": model.n_layers,
                "width": model.d_model,
                "dtype": str(model.dtype).removeprefix("torch."),
                "certified": bool(model.certificate.ok),
            }
            self.state = "ready"
        return self._subject


def _parts(message: str) -> dict[str, str]:
    """A library's message, which says all three itself. Its prompts are numbered; here each question is about one."""
    what, rest = parted(message.replace("Prompt 0 (", "The prompt (").replace("prompt 0", "the prompt"))
    return {"what": what, "why": rest, "do": ""}
