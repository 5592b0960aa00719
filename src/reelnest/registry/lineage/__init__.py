"""The origins of a version.

In: the checkout, `dvc.lock`, the environment. Out: a record in the version's files, its model card, and the commands that rebuild it. Open
`lineage.py` first.
"""
