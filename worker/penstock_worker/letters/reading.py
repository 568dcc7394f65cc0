"""From a letter back to its events, by the same decoding that every message goes through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from penstock_worker.ingest.decode import Decoded, Refused, decode, read_event, refuse_whole
from penstock_worker.ingest.message import Envelope, Message, RawMessage
from penstock_worker.ingest.outcome import Outcome, Verdict
from penstock_worker.ingest.validate import Validators
from penstock_worker.letters.patch import dump_exact, load_exact, merge_patch
from penstock_worker.store.dead_letters import Letter

__all__ = ["Source", "read_letter", "refuse_letter"]


@dataclass(frozen=True, slots=True)
class Source:
    """A letter and what was read from it: one event, or a message's many."""

    letter: Letter
    decoded: Decoded


def read_letter(letter: Letter, validators: Validators, patch: dict[str, Any] | None = None) -> Source:
    """
    Read a letter as if it had come from the broker.

    Args:
        letter: As it is stored.
        validators: Those of this process: they may know more than those that refused it.
        patch: A merge patch for the copy that is read; the letter is left as it is.
    """
    payload = letter.payload
    if patch is not None:
        try:
            payload = dump_exact(merge_patch(load_exact(payload), patch)).encode()
        except ValueError as exc:
            return refuse_letter(letter, Verdict(Outcome(letter.state), "not_json", f"it cannot be patched: {exc}"))
    if letter.event_id is None:
        return Source(letter, decode([_message(letter, payload)], validators))
    decoded, envelope = Decoded(), _envelope(letter, payload)
    decoded.envelopes.append(envelope)
    read_event(payload, 0, str(letter.event_id), envelope, validators, decoded)
    return Source(letter, decoded)


def refuse_letter(letter: Letter, verdict: Verdict) -> Source:
    """A letter that is not read at all, for a reason that lies outside."""
    decoded = Decoded()
    if letter.event_id is None:
        raw = _message(letter, letter.payload)
        refuse_whole(decoded, Message(raw.body, raw.content_type or "", raw.headers or {}), verdict)
    else:
        envelope = _envelope(letter, letter.payload)
        decoded.envelopes.append(envelope)
        hints = {"type": letter.type, "op": letter.op, "version": letter.version}
        decoded.refused.append(Refused(envelope, 0, 1, letter.payload, verdict, hints, str(letter.event_id)))
    return Source(letter, decoded)


def _envelope(letter: Letter, payload: bytes) -> Envelope:
    return Envelope(Message(payload), letter.producer, letter.epoch, letter.seq or 0, 1)


def _message(letter: Letter, payload: bytes) -> RawMessage:
    if letter.reason == "not_a_message":
        return RawMessage(payload)  # Redis's own, from which no content type and no headers could be read
    return RawMessage(payload, letter.content_type or "", letter.headers if letter.headers is not None else _headers(letter))


def _headers(letter: Letter) -> dict[str, Any]:
    """What the columns tell of the headers, where a worker of the first release wrote the letter."""
    if letter.epoch is None:
        return {}
    return {"epoch": str(letter.epoch), "seq": letter.seq, "count": 1, "producer": letter.producer}
