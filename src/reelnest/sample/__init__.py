"""The sample data: short videos of moving shapes, and searches for them.

In: a folder and a seed. Out: a data folder in the usual format, with the same bytes for the same seed. Open `sample.py` first.
"""
