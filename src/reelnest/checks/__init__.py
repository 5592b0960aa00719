"""Checks of the data with Great Expectations.

In: records, the inspected videos and the limits. Out: two tables, and the results of the expectations on them, for the report and its
page. Open `expectations.py` first.
"""
