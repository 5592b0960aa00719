"""HTML pages and their charts.

In: the reports of the stages. Out: one HTML file per page, which needs no network. Open `evaluation_page.py` first.
"""
