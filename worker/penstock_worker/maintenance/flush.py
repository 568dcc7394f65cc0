"""The job that makes every ingest worker write what it holds, and waits until it is committed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from penstock_worker.ask_workers import ANSWER_S, Workers, open_workers
from penstock_worker.settings import Settings

__all__ = ["TIMEOUT_S", "flush_workers"]

#: What a worker says of a flush, see `penstock_worker.ingest.flush`.
Answer = dict[str, Any]

#: Seconds that a flush waits for its workers where nothing else is said.
TIMEOUT_S = 10.0
#: Seconds between two questions whether it is done: at first and at most.
_ASK_S = (0.005, 0.25)


def flush_workers(settings: Settings, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """
    Tell all workers of the queue to write what they hold, and wait until they have, for at most `timeout_s`.

    It repeats nothing and deletes nothing: safe to run twice, also at once.

    Returns:
        Events and messages that workers held at the call, milliseconds until all of it was committed and acknowledged; the same
        for each worker; and by worker why some of it is `unwritten`.

    Raises:
        BrokerAway: Nobody could be asked.
    """
    with open_workers(settings) as workers:
        told = _flush(workers, timeout_s)
    return {
        "events": sum(answer["events"] for answer in told.values()),
        "messages": sum(answer["messages"] for answer in told.values()),
        "ms": max((answer["ms"] for answer in told.values()), default=0),
        "workers": {name: {"events": answer["events"], "ms": answer["ms"]} for name, answer in told.items()},
        "unwritten": _unwritten(told),
    }


def _flush(workers: Workers, timeout_s: float) -> dict[str, Answer]:
    deadline, id = time.monotonic() + timeout_s, {"id": uuid4().hex}
    told = _numbers(workers.ask("flush", id, timeout_s=min(ANSWER_S, timeout_s)))
    pause_s = _ASK_S[0]
    while asked := [name for name in _unwritten(told) if not told[name]["returned"]]:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            break
        time.sleep(min(pause_s, left_s))
        pause_s = min(2 * pause_s, _ASK_S[1])
        answers = _numbers(workers.ask("flushed", id, names=asked, timeout_s=min(ANSWER_S, left_s)))
        told |= {name: answer if "unwritten" in answer else _lost(told[name]) for name, answer in answers.items()}
    return told


def _numbers(answers: Mapping[str, Answer]) -> dict[str, Answer]:
    return {name: {word: answer[word] for word in answer if word != "queue"} for name, answer in sorted(answers.items())}


def _lost(before: Answer) -> Answer:
    """Of a worker that has been started anew and knows nothing of it: what the one before it held went back to the broker."""
    return {**before, "returned": before["unwritten"]}


def _unwritten(told: Mapping[str, Answer]) -> dict[str, str]:
    """The workers that have not committed what they held, and why."""
    return {name: why for name, answer in told.items() if (why := _why_unwritten(answer)) is not None}


def _why_unwritten(answer: Answer) -> str | None:
    paused = f"it is paused, {answer['paused_why']}" if answer["paused_why"] else None
    if answer["returned"]:
        return f"{answer['returned']:,} messages went back to the queue{f', {paused}' if paused else ''}"
    if answer["unwritten"]:
        return f"{answer['unwritten']:,} of {answer['messages']:,} messages are not committed{f', {paused}' if paused else ''}"
    return paused
