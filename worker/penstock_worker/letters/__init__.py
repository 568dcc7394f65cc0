"""
What is done with dead letters, in reading order:

`reading` makes events of a letter again, `patch` changes its copy; `claim` is what a replay adds to the writer's transaction,
`replay` the loop around it, `summary` what it tells. `held` replays by itself what can be stored now. `discard` and `export`
take letters out. Everything that is SQL alone is in `penstock_worker.store`.
"""
