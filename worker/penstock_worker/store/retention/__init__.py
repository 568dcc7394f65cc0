"""
What goes when its time has come, and how it is deleted beside ingestion.

Reading order: `policy` (how long), `rules` (which rows, as SQL), `pace` (how fast), `rows` (a table in chunks), `months` (whole
partitions), `figures` (what would go).
"""
