"""
What is broken, and when: a pure function of seed, broker and length, so that the same seed replays the same run.

A plan is a row of rounds. In a round up to three *lanes* run at the same time, each of them breaking one part of the system,
its faults one after the other: so faults overlap, and no two of them ever meet on the same server. A round ends when everything
works again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["BROKERS", "KINDS", "LONG_FORM_EACH", "Broker", "Fault", "Kind", "Lane", "Plan", "make_plan"]

Broker = Literal["redis", "rabbitmq"]
Lane = Literal["pool", "producers", "broker", "database"]

BROKERS: tuple[Broker, ...] = ("redis", "rabbitmq")
#: Faults of each kind over both brokers in the long form.
LONG_FORM_EACH = 20
#: Lanes that run at the same time, at most.
_LANES_AT_ONCE = 3
#: Seconds until things work again after a round, as far as the length of a run is concerned.
_RECOVERY_S = 3.0
#: Seconds that starting everything and counting at the end take, likewise.
_AROUND_S = 20.0


@dataclass(frozen=True, slots=True)
class Kind:
    """
    A kind of fault.

    Args:
        lane: What it breaks.
        lasts_s: How long it is held, drawn between these.
        costs_s: What it takes beside that: hitting, and putting things back.
        variants: Ways to do it; `of_redis` and `of_rabbitmq` where they have others.
        brokers: Where it exists.
    """

    lane: Lane
    lasts_s: tuple[float, float] = (0, 0)
    costs_s: float = 2.0
    variants: tuple[str, ...] = ("",)
    of_redis: tuple[str, ...] | None = None
    of_rabbitmq: tuple[str, ...] | None = None
    brokers: tuple[Broker, ...] = BROKERS

    def variants_on(self, broker: Broker) -> tuple[str, ...]:
        """Ways to do it on a broker."""
        return (self.of_redis if broker == "redis" else self.of_rabbitmq) or self.variants


KINDS: dict[str, Kind] = {
    "child_killed": Kind("pool", variants=("anywhere", "after_copy", "before_commit", "after_commit")),
    "worker_killed": Kind("pool", costs_s=6, variants=("anywhere", "before_ack")),
    "worker_replaced": Kind("pool", costs_s=7),
    "producer_killed": Kind("producers", costs_s=3),
    "spool_full": Kind("producers", costs_s=6),
    # RabbitMQ always in order: 3.10 cannot start again after a SIGKILL soon after its queue was made.
    "broker_restarted": Kind("broker", costs_s=8, of_redis=("stop", "kill")),
    "broker_frozen": Kind("broker", lasts_s=(2, 6)),
    "broker_cut": Kind("broker", costs_s=1),
    "broker_delayed": Kind("broker", lasts_s=(2, 5)),
    "broker_wiped": Kind("broker", costs_s=4, of_rabbitmq=("delete", "purge")),
    "redis_full": Kind("broker", lasts_s=(2, 5), brokers=("redis",)),
    "rabbitmq_alarm": Kind("broker", lasts_s=(2, 5), costs_s=5, brokers=("rabbitmq",)),
    "messages_duplicated": Kind("broker", costs_s=4),
    "messages_reordered": Kind("broker", lasts_s=(1, 2), costs_s=4),
    "database_crashed": Kind("database", costs_s=3),
    "database_down": Kind("database", lasts_s=(30, 30)),
    "database_cut": Kind("database", costs_s=1),
    "database_delayed": Kind("database", lasts_s=(2, 5)),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `after_s` seconds after the one before it in its lane, or after the round began."""

    number: int
    kind: str
    variant: str
    after_s: float
    lasts_s: float

    @property
    def lane(self) -> Lane:
        """What it breaks."""
        return KINDS[self.kind].lane

    @property
    def takes_s(self) -> float:
        """How long it takes, about."""
        return self.after_s + self.lasts_s + KINDS[self.kind].costs_s

    def __str__(self) -> str:
        """As the plan prints it."""
        parts = [f"#{self.number} {self.kind}", self.variant, f"{self.lasts_s:.1f} s" if self.lasts_s else ""]
        return " ".join(filter(None, parts))


Round = tuple[tuple[Fault, ...], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Rounds of lanes of faults."""

    seed: int
    broker: Broker
    rounds: tuple[Round, ...]

    @property
    def faults(self) -> list[Fault]:
        """All of them, in the order of their numbers."""
        return sorted((fault for lanes in self.rounds for lane in lanes for fault in lane), key=lambda fault: fault.number)

    @property
    def takes_s(self) -> float:
        """How long the run takes, about."""
        return _AROUND_S + sum(map(_round_takes_s, self.rounds))

    def counts(self) -> Counter[str]:
        """Faults by kind."""
        return Counter(fault.kind for fault in self.faults)

    def __str__(self) -> str:
        """A line a round."""
        lines = [f"{self.broker}, seed {self.seed}: {len(self.faults)} faults in about {self.takes_s / 60:.1f} minutes"]
        for number, lanes in enumerate(self.rounds, start=1):
            lines.append(f"  {number:3}. " + "  |  ".join(", then ".join(map(str, lane)) for lane in lanes))
        return "\n".join(lines)


def make_plan(
    seed: int,
    broker: Broker,
    minutes: float | None = None,
    kinds: Sequence[str] = tuple(KINDS),
    each: int | None = None,
) -> Plan:
    """
    Draw a plan.

    Args:
        seed: The same one gives the same plan.
        broker: Kinds that it does not have are left out.
        minutes: Take the first rounds that fit in; None takes all.
        kinds: What to choose from.
        each: Faults of each kind; None takes the long form's share of this broker.
    """
    draw = random.Random(f"{seed} {broker}")  # a plan is no secret
    chosen = {name: kind for name, kind in KINDS.items() if name in kinds and broker in kind.brokers}
    decks = {lane: _deck(draw, lane, chosen, each) for lane in ("pool", "producers", "broker", "database")}
    rounds: list[Round] = []
    left_s = None if minutes is None else minutes * 60 - _AROUND_S
    for lanes in _deal(draw, broker, decks):
        if left_s is not None:
            left_s -= _round_takes_s(lanes)
            if left_s < 0 and rounds:
                break
        rounds.append(lanes)
    return Plan(seed, broker, tuple(_numbered(rounds)))


def _deck(draw: random.Random, lane: str, kinds: dict[str, Kind], each: int | None) -> list[str]:
    """The faults of a lane: pass by pass, so that a short run has seen many kinds."""
    wanted = {name: each or -(-LONG_FORM_EACH // len(kind.brokers)) for name, kind in kinds.items() if kind.lane == lane}
    deck: list[str] = []
    while any(wanted.values()):
        left = [name for name, count in wanted.items() if count]
        draw.shuffle(left)
        deck += left
        wanted = {name: count - (name in left) for name, count in wanted.items()}
    return deck


def _deal(draw: random.Random, broker: Broker, decks: dict[str, list[str]]) -> Iterator[Round]:
    """Rounds until the decks are empty; those with more left are taken more often, so that all end together."""
    decks = {lane: list(deck) for lane, deck in decks.items()}
    while any(decks.values()):
        filled = [lane for lane, deck in decks.items() if deck]
        longest = max(filled, key=lambda lane: len(decks[lane]))
        others = [lane for lane in filled if lane != longest and draw.random() < 1.3 * len(decks[lane]) / len(decks[longest])]
        draw.shuffle(others)
        lanes = [longest, *others][:_LANES_AT_ONCE]
        dealt = {lane: [_fault(draw, broker, decks[lane].pop(0))] for lane in lanes}
        _fill_up(draw, broker, dealt, decks)
        yield tuple(tuple(faults) for faults in dealt.values())


def _fill_up(draw: random.Random, broker: Broker, dealt: dict[str, list[Fault]], decks: dict[str, list[str]]) -> None:
    """While the longest fault of a round lasts, the other lanes go on."""
    if len(dealt) == 1 and any(fault.lasts_s >= 30 for (fault,) in dealt.values()):
        free = [lane for lane, deck in decks.items() if deck and lane not in dealt]
        dealt |= {lane: [] for lane in free[: _LANES_AT_ONCE - 1]}
    longest_s = max(_lane_takes_s(faults) for faults in dealt.values())
    for lane, faults in dealt.items():
        while (
            decks[lane]
            and _lane_takes_s(faults) + KINDS[decks[lane][0]].costs_s + KINDS[decks[lane][0]].lasts_s[1] + 2 < longest_s
        ):
            faults.append(_fault(draw, broker, decks[lane].pop(0), after_s=draw.uniform(1, 2)))


def _fault(draw: random.Random, broker: Broker, name: str, after_s: float | None = None) -> Fault:
    kind = KINDS[name]
    after_s = draw.uniform(0, 1.5) if after_s is None else after_s
    return Fault(0, name, draw.choice(kind.variants_on(broker)), round(after_s, 2), round(draw.uniform(*kind.lasts_s), 2))


def _numbered(rounds: Sequence[Round]) -> Iterator[Round]:
    number = 0
    for lanes in rounds:
        numbered = []
        for lane in lanes:
            faults = []
            for fault in lane:
                number += 1
                faults.append(Fault(number, fault.kind, fault.variant, fault.after_s, fault.lasts_s))
            numbered.append(tuple(faults))
        yield tuple(numbered)


def _lane_takes_s(faults: Sequence[Fault]) -> float:
    return sum(fault.takes_s for fault in faults)


def _round_takes_s(lanes: Round) -> float:
    return max(map(_lane_takes_s, lanes)) + _RECOVERY_S
