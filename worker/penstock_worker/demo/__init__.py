"""
The demo: real texts through the whole way, compared afterwards.

Reading order: `catalogues` (what the texts are), `events` (what a service would send about them), `publish` (several processes
send it), `run` (waits until all is stored), `compare` (a program of its own that looks whether it is).
"""
