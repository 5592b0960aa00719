"""The page of the data checks.

In: the validation report and the result of each expectation. Out: `reports/data_docs/index.html`. It is a separate package so that a
change to this page does not make the evaluation stale. Open `validation_page.py` first.
"""
