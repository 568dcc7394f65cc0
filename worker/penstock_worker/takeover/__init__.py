"""
Taking over the SQLite file of the old scheduler.

Reading order: `sqlite_file` opens it, `old_tables` finds the tables, `values` and `events` make events of rows, `survey` reads
all of it once to name these events, `run` writes them.
"""
