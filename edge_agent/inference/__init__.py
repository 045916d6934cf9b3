"""From a source's frames to results: one slot is one source, one serving worker and one file of results."""
