"""Drift of new data from the champion's training data.

In: values of two versions of the data. Out: measures with p-values and effect sizes, and the page `reports/drift.html`. Open `measures.py`
first. `reelnest.registry.drift_log` logs the measures to MLflow.
"""
