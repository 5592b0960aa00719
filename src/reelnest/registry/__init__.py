"""MLflow: runs, versions, aliases, lineage. No other package of the library imports MLflow.

In: the candidate, its metrics and its settings. Out: runs, versions and their tags, and a RegistryError if MLflow rejects a request or
cannot be reached. Open `connection.py` first; every use of MLflow begins there.
"""
