"""Does this environment work? Checks, the processes that isolate them, and how their findings are shown."""
