"""MLflow: runs, models, versions. No other part of the library imports it."""
