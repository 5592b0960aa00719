"""Composes batches of pairs and their negatives.

In: the pairs of the training split. Out: batches with mined negatives, in an order that a resumed training repeats. Open
`sampler.py` first.
"""
