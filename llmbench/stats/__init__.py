"""Estimates with their intervals, and the verdicts that rest on them."""
