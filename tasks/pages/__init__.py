"""A run's pages in Prefect, in Markdown.

In: the reports of a stage. Out: the text of artifacts, with every text of the data escaped. Open `artifacts.py` first.
"""
