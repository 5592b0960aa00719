"""What a run shows in Prefect: artifacts in Markdown.

In: the reports of a stage. Out: artifacts, with every text of the data escaped. Open `artifacts.py` first.
"""
