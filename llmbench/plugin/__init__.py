"""What ``pytest_plugin.py`` does with a test that has the mark llmbench; the control side of it."""
