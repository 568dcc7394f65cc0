"""Private servers and processes that tests may kill, freeze and restart."""
