"""
Erasure and export of what is stored about a person, in reading order:

`fences` refuses whoever has been erased, `barrier` waits for batches that do not know it yet, `kept` is what an erasure spares,
`tombstones` writes over rows, `letters` finds what a person's dead letters are. `erase` puts them together, `report` counts
before and after, `restore` carries the fences over a restore; `export` tells all, and `log` notes every use of either.
"""
