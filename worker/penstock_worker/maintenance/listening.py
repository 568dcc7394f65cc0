"""
Whether everything that services have sent is in the tables, or nearly so: only then does silence mean something.

The queue's depth and the workers say it together: where they work, fewer messages than the setting are written within
seconds. So the age of the oldest message is not asked, which RabbitMQ would not tell either.
"""

from __future__ import annotations

from penstock_worker.errors import BrokerAway
from penstock_worker.queue_look import waiting_messages, workers_stats
from penstock_worker.settings import Settings

__all__ = ["why_deaf"]


def why_deaf(settings: Settings) -> str | None:
    """
    Why events may be on their way for longer than seconds, in a few words; None where they are not.

    Raises:
        ConfigurationError: The broker's URL cannot be right.
    """
    try:
        waiting = waiting_messages(settings)
        steps = workers_stats(settings).values()
    except BrokerAway as exc:
        return f"the broker is away: {exc}"
    if not steps:
        return "no worker answers"
    # RabbitMQ hands workers thousands of messages at once.
    waiting += sum(int(step.get("held_messages") or 0) for step in steps)
    if waiting > settings.recovery_backlog_messages:
        return f"{waiting:,} messages wait"
    troubles = [step.get("stalled_why") or step.get("paused_why") for step in steps]
    return None if None in troubles else f"no worker works: {troubles[0]}"
