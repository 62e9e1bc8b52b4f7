"""Instruments: what is read beside the training, at its edges and never inside the timed window."""
