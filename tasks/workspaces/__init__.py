"""A run's git worktree, its data, and what is saved of it.

In: a revision and changed settings. Out: a worktree to run in, a commit under `refs/reelnest/runs/` afterwards, and the versions of the
data. Open `run_workspace.py` first.
"""
