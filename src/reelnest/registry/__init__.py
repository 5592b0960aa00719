"""MLflow: runs, versions, aliases, lineage. No other part of the library imports it.

In: the candidate, its figures and its settings. Out: runs, versions and their tags, and RegistryError where MLflow refuses or is away.
Open `connection.py` first; every call to MLflow begins there.
"""
