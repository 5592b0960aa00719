"""A tiny base model."""

from pathlib import Path

import pytest
import torch
from model_inputs import TEXTS

from reelnest.config import Tiny
from reelnest.model.tiny import build_tiny

torch.set_num_threads(1)  # models this small lose more by waiting for a second thread than they gain


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    build_tiny(folder, TEXTS, Tiny(), seed=0)
    return folder
