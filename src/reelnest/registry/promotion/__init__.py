"""The promotion of a version to champion.

In: the metrics by query of a challenger and of the champion. Out: a decision with its reason and conditions, and the aliases. Open
`decision.py` first.
"""
