"""The metrics of each query, as a table in which two models are compared, and the hash of the questions that both have to be asked."""

import functools
from collections.abc import Sequence

import pandas as pd

from reelnest.evaluation.evaluation import Evaluation
from reelnest.evaluation.retrieval_sets import RetrievalSet
from reelnest.records.content_hash import value_hash
from reelnest.store.prepared import Prepared

QUERY_METRICS_FILE = "queries.parquet"
"""In `reports/`: the table."""
CODE = "code"
"""Among the attributes of the table (pandas' `attrs`, which Parquet keeps): the hash of the code that made it."""
KEY = ["pair_kind", "query"]
"""The columns that name a query."""


def metrics_by_query(evaluation: Evaluation, prepared: Prepared, code_hash: str, untrained: Sequence[int] = ()) -> pd.DataFrame:
    """A row for each pair kind, query and dim: what the gate compares, and whoever asks which queries are hard.

    The gate looks at what a model serves, so dims that it was not trained for are left out. The table's attributes name the code that
    made it.
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
    """A hash of the queries and of what is relevant to them, by texts and by video ids with the bytes of the videos.

    How the videos were sampled, and text fields, are left out: how much of a video a model reads is the model's choice, and models that
    choose otherwise can be compared on the same questions.
    """

    @functools.cache
    def name(index: int) -> str | list[str]:
        item = prepared.item(index)
        return item.key if item.kind == "text" else [item.key, prepared.store.content(prepared.store.position(item.key))]

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
