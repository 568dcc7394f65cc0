"""
The spool: events on the producer's disk, so that neither an outage nor the end of the process costs any.

Read in this order: file (one SQLite file), folder (whose it is), stock (how far the events of one file are), stocks (all files
of a producer), spool (events come and go), adopter (files of killed processes), receipts (what the worker says of journaled
events), keeper (the thread that moves events out of memory), journal (the buffer that writes first).

The life of an event, by durability:

| moment                              | spill                                | journal                                   |
|-------------------------------------|--------------------------------------|-------------------------------------------|
| publish() returns                   | in memory                            | on disk, and in memory while there is room|
| the broker takes nothing for 1 s,   | from memory to disk                  | stays on disk; sent from there when       |
| or memory is full                   |                                      | memory had no room                        |
| the exit deadline passes            | from memory to disk                  | stays on disk                             |
| the broker confirms                 | gone, from memory or disk            | stays on disk, out of memory              |
| the worker answers (receipt)        | nobody asks                          | gone from disk                            |
| the worker says that it is unknown  | nobody asks                          | sent again                                |
| the producer is killed              | what was on disk is adopted and sent | all of it is adopted; what was confirmed  |
|                                     |                                      | is asked about first                      |

`memory` has no spool at all. Files are made when the first event comes to them: without trouble `spill` writes nothing.
"""
