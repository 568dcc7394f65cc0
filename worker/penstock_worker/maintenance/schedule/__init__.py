"""
What beat does, in reading order: `timing` (when is it due), `decide` (what to do with a row), `tick` (look, decide, claim,
send), `sender` (how a run reaches the broker), `scheduler` (Celery's side of it), `results` (what came of a run).
"""
