"""The versions of the registered model and their files.

In: a candidate and its evidence. Out: a version that MLflow can serve, and the download of its saved model. Open `versions.py` first.
"""
