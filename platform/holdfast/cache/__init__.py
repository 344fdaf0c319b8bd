"""Results in Redis: the entry, the one way to a new one, and where they are kept."""
