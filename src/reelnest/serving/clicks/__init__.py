"""The log of searches and clicks, in the layout that `reelnest data import clicks` reads.

`events.py` receives clicks over HTTP, `click_log.py` writes what servers receive every second to the journals of `journals.py`, and each
journal becomes one Parquet file when no click for its searches can come any more.
"""
