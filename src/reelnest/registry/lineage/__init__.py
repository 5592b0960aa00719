"""Where a version comes from.

In: the checkout, `dvc.lock`, the environment. Out: a record that is kept with the version, its model card, and the commands that make
it again. Open `lineage.py` first.
"""
