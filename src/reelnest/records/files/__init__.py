"""The files that records name: paths that stay inside the data folder, and members of tar files.

In: a path of a record, and the data folder. Out: a file that exists, or a VideoError. Open `safe_paths.py` first.
"""
