"""`params.yaml` as frozen, typed models, one file per section.

In: `params.yaml` and environment variables. Out: `Params`, or a ConfigError with each wrong key and its allowed values, before anything
runs. No other module reads settings or the environment. Open `params.py` first.
"""

from reelnest.settings.data import Data, Preprocess, Validate
from reelnest.settings.environment import flow_run, tracking_uri, wandb_mode
from reelnest.settings.evaluate import Evaluate, Funnel
from reelnest.settings.index import Index
from reelnest.settings.loading import (
    ACCELERATE_CONFIGS,
    PARAMS_FILE,
    check_params,
    current_params,
    is_setting,
    launch_config_path,
    launch_processes,
    launch_shards,
    launch_uses_cpu,
    load_params,
    setting_errors,
)
from reelnest.settings.loss import LossSettings, Mining, NestedInfoNceSettings, loss_settings_classes, register_loss_settings
from reelnest.settings.model import Lora, Model, Tiny
from reelnest.settings.params import Params
from reelnest.settings.register import BehaviourPassed, Drift, Register
from reelnest.settings.runs import Kubernetes, Launch, Resources, Runs, Slurm, Tracking
from reelnest.settings.section import ComparableMetric, Fraction, MetricName, Positive, Precision, Section, Storage
from reelnest.settings.serve import Serve
from reelnest.settings.train import Train

__all__ = [
    "ACCELERATE_CONFIGS",
    "PARAMS_FILE",
    "BehaviourPassed",
    "ComparableMetric",
    "Data",
    "Drift",
    "Evaluate",
    "Fraction",
    "Funnel",
    "Index",
    "Kubernetes",
    "Launch",
    "Lora",
    "LossSettings",
    "MetricName",
    "Mining",
    "Model",
    "NestedInfoNceSettings",
    "Params",
    "Positive",
    "Precision",
    "Preprocess",
    "Register",
    "Resources",
    "Runs",
    "Section",
    "Serve",
    "Slurm",
    "Storage",
    "Tiny",
    "Tracking",
    "Train",
    "Validate",
    "check_params",
    "current_params",
    "flow_run",
    "is_setting",
    "launch_config_path",
    "launch_processes",
    "launch_shards",
    "launch_uses_cpu",
    "load_params",
    "loss_settings_classes",
    "register_loss_settings",
    "setting_errors",
    "tracking_uri",
    "wandb_mode",
]
