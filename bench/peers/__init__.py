"""The same events through what else one would take: each peer in a file of its own, set up as its documentation advises."""

from bench.peers.comparison import EVENTS, add_arguments, measure

__all__ = ["EVENTS", "add_arguments", "measure"]
