"""
Breaking things on purpose, and counting afterwards: `make chaos`.

Read in this order: plan (what is broken when), events, log, writer (the processes that publish), proxy, site (all that runs),
messages, faults, checker (what must be true afterwards), state, audit (`penstock audit` against it), run, report.
"""
