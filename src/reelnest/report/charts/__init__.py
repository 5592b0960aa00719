"""Layout of charts, which `charts.html.j2` draws as SVG.

In: values by name. Out: coordinates of lines, points, bars and labels that do not overlap. Open `line_chart.py` first.
"""
