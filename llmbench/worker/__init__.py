"""The target side: trains one case in the environment under test, with the standard library and torch only.

Reached by path (``PYTHON llmbench/worker/start.py``), so that nothing need be installed in that environment.
"""
