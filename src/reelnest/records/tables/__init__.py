"""Tables with a map of their columns, read in batches.

In: a JSON file that maps columns of a CSV, TSV, JSON-lines or Parquet file. Out: Arrow columns, some thousand rows at a time, so that
memory does not depend on the number of rows. `column_map.py` reads the map, `batches.py` the rows.
"""
