"""The metrics of each query as a table, by which two models are compared, and a hash of the test data that both must share."""

import functools
from collections.abc import Sequence

import pandas as pd

from reelnest.evaluation.evaluation import Evaluation
from reelnest.evaluation.retrieval_sets import RetrievalSet
from reelnest.records.content_hash import value_hash
from reelnest.store.prepared import Prepared

QUERY_METRICS_FILE = "queries.parquet"
"""Name of the table in `reports/`."""
CODE = "code"
"""Attribute of the table (pandas' `attrs`, which Parquet stores): the hash of the evaluation code."""
KEY = ["pair_kind", "query"]
"""The columns that identify a query."""


def metrics_by_query(evaluation: Evaluation, prepared: Prepared, code_hash: str, untrained: Sequence[int] = ()) -> pd.DataFrame:
    """Returns a row for each pair kind, query and dim. The promotion gate compares these, and they show which queries are hard.

    Dims that the model was not trained for are left out, since they are not served. The table's attributes hold `code_hash`.
    """
    tables = [
        pd.DataFrame(
            {
                "pair_kind": of_dim.searched.pair_kind,
                "query": [prepared.item(int(query)).key for query in of_dim.searched.queries],
                "dim": of_dim.dim,
                **of_dim.values,
            }
        )
        for of_dim in evaluation.by_query
        if of_dim.dim not in untrained
    ]
    table = pd.concat(tables, ignore_index=True)
    table.attrs[CODE] = code_hash
    return table


def data_hash(sets: Sequence[RetrievalSet], prepared: Prepared) -> str:
    """Returns a hash of the queries and their relevant items: texts, and video ids with a hash of each video's bytes.

    Frame sampling and text fields are not part of it. They belong to the model, so models that differ in them can be compared on the same
    data.
    """

    @functools.cache
    def name(index: int) -> str | list[str]:
        item = prepared.item(index)
        return item.key if item.kind == "text" else [item.key, prepared.store.content(prepared.store.index_of(item.key))]

    return value_hash(
        [
            {
                "pair_kind": searched.pair_kind,
                "corpus": [name(int(item)) for item in searched.corpus],
                "queries": [
                    {
                        "query": name(int(query)),
                        "right": [[name(item), grade] for item, grade in sorted(searched.qrels[int(query)].items())],
                        "wrong": [name(int(item)) for item in searched.negatives.get(int(query), ())],
                        "ignored": [name(int(item)) for item in searched.ignored.get(int(query), ())],
                    }
                    for query in searched.queries
                ],
            }
            for searched in sets
        ]
    )
