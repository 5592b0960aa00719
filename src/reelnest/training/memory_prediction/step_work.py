"""Counts the computation of a training step, without data, weights and GPU."""

from transformers import PreTrainedConfig

from reelnest.encoder.unfilled import unfilled_encoder
from reelnest.profiling.throughput import Work, WorkOf
from reelnest.settings import Params
from reelnest.training.memory_prediction.step_shapes import Sizes, stand_in_batcher, step_of


def step_work(params: Params, config: PreTrainedConfig, sizes: Sizes, *, processes: int = 1) -> Work:
    """Returns the work of a step of `params` on architecture `config`, of one of `processes`. Recomputation does not count."""
    # 4-bit weights are unpacked for the same products.
    work_of = WorkOf(unfilled_encoder(params.model.model_copy(update={"load_in_4bit": False}), config))
    batcher = stand_in_batcher(params, config, sizes, processes=processes, contents=False)
    return sum((work_of(inputs) for batch in step_of(params, batcher) for inputs in batch.inputs), Work())
