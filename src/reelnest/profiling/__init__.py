"""Measures the time of training steps, and of searches in engines (`engines.py`).

In: a running step and its batches. Out: seconds by phase, a trace, and rates (pairs, tokens, FLOPs per second). The training loop calls
this package, which does not import it. Open `phases.py` first.
"""
