"""Real work, with --deep: memory, arithmetic, clocks and links under load."""
