"""Three custom expectations for pandas tables.

Importing this module registers them with Great Expectations.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import pandas as pd
from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.execution_engine import ExecutionEngine, PandasExecutionEngine
from great_expectations.expectations.expectation import ColumnAggregateExpectation, ColumnPairMapExpectation
from great_expectations.expectations.metrics import ColumnAggregateMetricProvider, column_aggregate_value
from great_expectations.expectations.metrics.map_metric_provider import ColumnPairMapMetricProvider, column_pair_condition_partial
from great_expectations.expectations.metrics.metric_provider import metric_value

MANY_VALUES = 100
"""Shares of fewer values are chance."""


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


class _DifferenceOfSplits(ColumnAggregateMetricProvider):
    metric_name = "column.difference_of_splits"

    @metric_value(engine=PandasExecutionEngine)
    def _pandas(cls, execution_engine: PandasExecutionEngine, metric_domain_kwargs: dict[str, Any], **_: Any) -> float:  # noqa: N805 (Great Expectations' name)
        table = execution_engine.get_domain_records(domain_kwargs=metric_domain_kwargs)
        column = metric_domain_kwargs["column"]
        values = {split: table[column][table["split"] == split].dropna() for split in ("train", "test")}
        if min(map(len, values.values())) < MANY_VALUES:
            return 0.0
        train, test = (of_split.value_counts(normalize=True) for of_split in values.values())
        return round(float(test.subtract(train, fill_value=0).abs().sum() / 2), 4)


class _OneMetric(ABC):
    """What the expectations of one number of a column have in common."""

    metric_dependencies: ClassVar[tuple[str, ...]]

    @abstractmethod
    def _holds(self, value: float) -> bool: ...

    def _validate(
        self,
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any] | None = None,  # noqa: ARG002 (Great Expectations' signature)
        execution_engine: ExecutionEngine | None = None,  # noqa: ARG002 (Great Expectations' signature)
    ) -> dict[str, Any]:
        value = metrics[self.metric_dependencies[0]]
        return {"success": self._holds(value), "result": {"observed_value": round(value, 4)}}


class ExpectColumnToBeAlikeInTrainAndTest(_OneMetric, ColumnAggregateExpectation):
    """A column has about the same mix of values in the rows whose `split` is train and in those whose is test.

    The difference is the total variation distance: the smallest share of the rows of one split that would need another value. It is 0
    where a split has fewer than `MANY_VALUES` values.
    """

    max_difference: float
    domain_type: ClassVar[MetricDomainTypes] = MetricDomainTypes.COLUMN
    metric_dependencies: ClassVar[tuple[str, ...]] = ("column.difference_of_splits",)
    success_keys: ClassVar[tuple[str, ...]] = ("max_difference",)
    args_keys: ClassVar[tuple[str, ...]] = ("column", "max_difference")

    def _holds(self, value: float) -> bool:
        return value <= self.max_difference


class ExpectColumnValuesToBeBalanced(_OneMetric, ColumnAggregateExpectation):
    """The rarest value of a column has at least `min_share` of its rows.

    A kind of pair with few examples among thousands is hardly trained on, and its metrics are averages over few queries.
    """

    min_share: float
    domain_type: ClassVar[MetricDomainTypes] = MetricDomainTypes.COLUMN
    metric_dependencies: ClassVar[tuple[str, ...]] = ("column.smallest_share",)
    success_keys: ClassVar[tuple[str, ...]] = ("min_share",)
    args_keys: ClassVar[tuple[str, ...]] = ("column", "min_share")

    def _holds(self, value: float) -> bool:
        return value >= self.min_share
