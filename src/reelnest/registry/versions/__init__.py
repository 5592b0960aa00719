"""The versions of the registered model, and the files that they consist of.

In: a candidate and its decision. Out: a version that MLflow can serve, and its saved model again. Open `versions.py` first.
"""
