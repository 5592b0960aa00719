"""The page of the data checks.

In: the report of validation and what came of each expectation. Out: `reports/data_docs/index.html`. It is a package of its own so that a
change to this page does not evaluate the model again. Open `validation_page.py` first.
"""
