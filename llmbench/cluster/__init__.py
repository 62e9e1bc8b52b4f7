"""Which node this is among those that work together, and how their control sides talk."""
