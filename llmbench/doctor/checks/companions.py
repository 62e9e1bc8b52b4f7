"""Packages beside torch that must fit to it."""
