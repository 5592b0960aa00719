"""How far new data is from what the champion was trained on.

In: figures of two versions of the data. Out: measures with their tests and sizes, and the page `reports/drift.html`. Open `measures.py`
first. What MLflow keeps of it is in `reelnest.registry.drift_log`.
"""
