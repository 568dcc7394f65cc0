"""
Measurements: `python -m bench NAME [--json]`.

Reading order: `workload` (what is sent), `harness` (servers, worker, queue), then one module a bench. A bench is a module with
`add_arguments(parser)` and `measure(arguments) -> dict`; `__main__` lists them.
"""
