"""Pages that people look at, and their charts.

In: figures as the stages write them. Out: one HTML file each, which needs no network. Open `evaluation_page.py` first.
"""
