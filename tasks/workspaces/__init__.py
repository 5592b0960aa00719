"""The git worktree of a run, its data, and how the run is saved.

In: a revision and changed settings. Out: a worktree to run in, then a commit under `refs/reelnest/runs/`; versions of the data. Open
`run_workspace.py` first.
"""
