"""The sample data: short videos of moving shapes, and searches for them.

In: a folder and a seed. Out: the same bytes for the same seed, in the data's own format. Open `sample.py` first.
"""
