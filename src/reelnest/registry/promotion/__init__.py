"""Which version is champion.

In: the figures by query of a challenger and of the champion. Out: a decision with its reason and each condition, and the aliases. Open
`decision.py` first.
"""
