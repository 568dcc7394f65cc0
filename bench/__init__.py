"""
Measurements: `python -m bench NAME [--json]`, or all of them with their report: `make bench`.

Reading order: `records`, `workload` (what is sent), `site` (servers), `backlog` (the queue), `workers`, `table`, `race`, then
one module a bench. A bench is a module with `EVENTS`, its default, and `measure(place, arguments) -> dict`, where it has
arguments of its own `add_arguments(parser)`; `__main__` lists them, `goals` says what they are to reach.
"""
