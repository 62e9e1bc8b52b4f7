"""Starts the processes that train, watches over them, and turns what they leave into records."""
