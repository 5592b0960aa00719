"""Where the time of a training step goes.

In: a running step and its batches. Out: seconds by phase, a trace, and rates (pairs, tokens, FLOPs a second). Knows nothing of the
training loop, which calls it. Open `phases.py` first.
"""
