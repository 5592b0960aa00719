"""Charts of pages, as numbers that `charts.html.j2` draws as SVG.

In: figures by name. Out: places of lines, points, bars and labels that do not overlap. Open `line_chart.py` first.
"""
