"""Contrastive losses over nested dims.

In: vectors of queries and targets, and which of them belong together. Out: a loss for each dim. Open `losses.py` first;
`prefix_logsumexp.py` holds the arithmetic of all dims at once.
"""
