"""Real processes, killed in the middle."""
