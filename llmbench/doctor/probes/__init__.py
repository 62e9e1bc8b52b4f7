"""Target side of doctor: run by the interpreter under test through ``run.py``; standard library and torch only."""
