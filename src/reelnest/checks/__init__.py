"""Checks of the data with Great Expectations.

In: records, what decoding found in each video, and the limits. Out: two tables, and the results of the expectations on them, as
figures and as pages. Open `expectations.py` first.
"""
