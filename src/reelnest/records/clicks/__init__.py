"""Click logs to graded relevance and hard negatives.

In: a table of clicks, by its column map. Out: a grade for each query and relevant item, and the query's hard negatives. The importer in
`importers/clicks.py` calls the modules in this order: `click_log.py` reads, `filters.py` removes bots, `windows.py` splits by time,
`propensities.py` estimates the position bias, and `grades.py` corrects for it.
"""
