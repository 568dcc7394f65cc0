"""Penstock's migrations, and the machinery by which packages with record types of their own have theirs."""
