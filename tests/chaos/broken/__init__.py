"""
Builds that are broken on purpose, so that it shows whether the checker sees it.

Each module breaks one promise in the process that imports it; a worker does when its name stands in `PENSTOCK_RECORDS`.
"""
