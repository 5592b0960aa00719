"""Two custom expectations for pandas tables.

Importing this module registers them with Great Expectations.
"""

from typing import Any, ClassVar

import pandas as pd
from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.execution_engine import ExecutionEngine, PandasExecutionEngine
from great_expectations.expectations.expectation import ColumnAggregateExpectation, ColumnPairMapExpectation
from great_expectations.expectations.metrics import ColumnAggregateMetricProvider, column_aggregate_value
from great_expectations.expectations.metrics.map_metric_provider import ColumnPairMapMetricProvider, column_pair_condition_partial


class _OneValueForEach(ColumnPairMapMetricProvider):
    condition_metric_name = "column_pair_values.one_b_for_each_a"

    @column_pair_condition_partial(engine=PandasExecutionEngine)
    def _pandas(cls, column_A: pd.Series, column_B: pd.Series, **_: Any) -> pd.Series:  # noqa: N803, N805 (Great Expectations' names)
        return column_B.groupby(column_A).transform("nunique") <= 1


class ExpectColumnPairToHaveOneBForEachA(ColumnPairMapExpectation):
    """Every value of column A occurs with only one value of column B.

    With a pair, a query or a component as A and the split as B, it checks that nothing leaks from one split to another.
    Rows whose A has several B are unexpected. Rows in which either value is missing are ignored.
    """

    map_metric: ClassVar[str] = "column_pair_values.one_b_for_each_a"
    ignore_row_if: str = "either_value_is_missing"
    success_keys: ClassVar[tuple[str, ...]] = ("column_A", "column_B", "ignore_row_if", "mostly")
    args_keys: ClassVar[tuple[str, ...]] = ("column_A", "column_B")


class _SmallestShare(ColumnAggregateMetricProvider):
    metric_name = "column.smallest_share"

    @column_aggregate_value(engine=PandasExecutionEngine)
    def _pandas(cls, column: pd.Series, **_: Any) -> float:  # noqa: N805 (Great Expectations' name)
        return float(column.value_counts(normalize=True).min()) if len(column) else 1.0


class ExpectColumnValuesToBeBalanced(ColumnAggregateExpectation):
    """The rarest value of a column has at least `min_share` of its rows.

    A kind of pair with few examples among thousands is hardly trained on, and its metrics are averages over few queries.
    """

    min_share: float
    domain_type: ClassVar[MetricDomainTypes] = MetricDomainTypes.COLUMN
    metric_dependencies: ClassVar[tuple[str, ...]] = ("column.smallest_share",)
    success_keys: ClassVar[tuple[str, ...]] = ("min_share",)
    args_keys: ClassVar[tuple[str, ...]] = ("column", "min_share")

    def _validate(
        self,
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any] | None = None,  # noqa: ARG002 (Great Expectations' signature)
        execution_engine: ExecutionEngine | None = None,  # noqa: ARG002 (Great Expectations' signature)
    ) -> dict[str, Any]:
        share = metrics["column.smallest_share"]
        return {"success": share >= self.min_share, "result": {"observed_value": round(share, 4)}}
