"""Prefect tasks, one for each stage.

In: a workspace. Out: a finished DVC stage, its pages in Prefect, its events. Open `stages.py` first.
"""
