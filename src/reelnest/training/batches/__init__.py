"""Which pairs are trained on together, and with which negatives.

In: the pairs of the training split. Out: batches, in an order that a resumed training repeats, with mined negatives beside them. Open
`sampler.py` first.
"""
