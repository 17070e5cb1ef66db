"""Named plans, as JSON."""
