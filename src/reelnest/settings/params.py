"""All sections, and the checks across sections."""

from typing import Self

from pydantic import Field, model_validator

from reelnest.settings.data import Data, Preprocess, Validate
from reelnest.settings.evaluate import Evaluate
from reelnest.settings.index import Index
from reelnest.settings.loss import LossSection, Mining, NestedInfoNceSettings
from reelnest.settings.model import Model
from reelnest.settings.register import Drift, Register
from reelnest.settings.runs import Launch, Runs, Tracking
from reelnest.settings.section import Section
from reelnest.settings.serve import Serve
from reelnest.settings.train import Train


class Params(Section):
    """All settings. The sections `validate` and `register` are attributes `validation` and `registration`: pydantic uses those names."""

    data: Data = Data()
    validation: Validate = Field(Validate(), alias="validate")
    preprocess: Preprocess = Preprocess()
    model: Model = Model()
    train: Train = Train()
    loss: LossSection = NestedInfoNceSettings()
    mining: Mining = Mining()
    evaluate: Evaluate = Evaluate()
    index: Index = Index()
    serve: Serve = Serve()
    registration: Register = Field(Register(), alias="register")
    drift: Drift = Drift()
    runs: Runs = Runs()
    launch: Launch = Launch()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.train.best_dim is not None and self.train.best_dim not in self.model.dims:
            raise ValueError(f"train.best_dim: {self.train.best_dim} is not in model.dims, {list(self.model.dims)}")
        if self.train.mixed_precision == "fp16" and self.model.dtype == "bfloat16":
            raise ValueError(
                "train.mixed_precision: fp16 scales the loss for float16 gradients, and model.dtype: bfloat16 has weights beyond float16's"
                " range. Use mixed_precision: bf16, or dtype: float32"
            )
        if self.mining.mines and self.mining.start_epoch >= self.train.epochs:
            raise ValueError(
                f"mining.start_epoch: {self.mining.start_epoch} epochs pass before the first mining, and train.epochs is"
                f" {self.train.epochs}, so nothing would be mined. Lower start_epoch, or set mining.listed to only"
            )
        weights = self.loss.dim_weights
        if not isinstance(weights, str) and (len(weights) != len(self.model.dims) or not any(weights)):
            raise ValueError(
                f"loss.dim_weights: needs one weight for each of the {len(self.model.dims)} model.dims, not all 0; found {list(weights)}"
            )
        return self
