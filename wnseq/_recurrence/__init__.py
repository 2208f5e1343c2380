"""How a recurrence over a sequence runs, and on what."""
