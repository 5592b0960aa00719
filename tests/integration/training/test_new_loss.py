"""A loss from outside the package, from its settings in params.yaml to a trained model: the example of docs/extending.md."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from reelnest.errors import ConfigError
from reelnest.settings import LossSettings, NestedInfoNceSettings, load_params, register_loss_settings
from reelnest.settings import loss as loss_settings
from reelnest.training.losses import loss as losses
from reelnest.training.losses import make_loss
from tests.integration.training.training_workspace import ROOT, rows, run, training_report, write_workspace


@pytest.fixture(autouse=True)
def _no_loss_stays_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    make_loss(NestedInfoNceSettings(), [8])  # so that the package's classes are registered first
    monkeypatch.setattr(loss_settings, "_registered", dict(loss_settings._registered))
    monkeypatch.setattr(losses, "_registered", dict(losses._registered))


@pytest.fixture
def _acme_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with the page's module and entry point."""
    page = (ROOT / "docs" / "extending.md").read_text()
    [module] = re.findall(r"```python\n(.*?)```", page[page.index("## A loss") : page.index("## A backbone")], re.DOTALL)
    [point] = re.findall(r'entry-points\."(reelnest\.losses)"\]\nhinge = "acme_losses"', page)
    information = tmp_path / "site" / "acme_losses-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-losses\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{point}]\nhinge = acme_losses\n")
    (tmp_path / "site" / "acme_losses.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "acme_losses", raising=False)


@pytest.mark.usefixtures("_acme_is_installed")
def test_a_loss_of_another_package_trains_with_its_own_settings(prepared: Path, tmp_path: Path) -> None:
    loss: dict[str, object] = {"name": "hinge", "margin": 0.3, "learn_margin": True, "dim_weights": "learnt"}
    root = write_workspace(tmp_path / "checkout", prepared, loss=loss, accumulation_steps=2, epochs=3)
    run(root)
    assert float(rows(root)[-1]["loss_32"]) < float(rows(root)[0]["loss_32"])
    assert training_report(root)["temperature"] == 1.0
    [best] = root.glob("work/checkpoints/*/best.safetensors")
    assert load_file(best)["objective.loss.margin"].item() != pytest.approx(0.3)
    micro_batched = write_workspace(tmp_path / "other", prepared, loss=loss | {"margin": 0.1}, accumulation_steps=2, epochs=1)
    run(micro_batched)
    assert float(rows(micro_batched)[0]["loss_32"]) < float(rows(root)[0]["loss_32"])


@pytest.mark.usefixtures("_acme_is_installed")
def test_micro_batches_give_it_the_losses_of_the_whole_batch(prepared: Path, tmp_path: Path) -> None:
    loss: dict[str, object] = {"name": "hinge", "learn_margin": True}
    actual = []
    for size in (None, 3):
        root = write_workspace(tmp_path / f"size-{size}", prepared, loss=loss, micro_batch_size=size, optimizer="adamw", epochs=2)
        run(root)
        actual.append([float(row["loss"]) for row in rows(root)])
    np.testing.assert_allclose(actual[1], actual[0], rtol=1e-4)


@pytest.mark.usefixtures("_acme_is_installed")
@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ({"name": "triplet"}, "loss.name: There is no such loss; known: hinge, nested_infonce; found 'triplet'"),
        ({"name": "hinge", "margn": 0.1}, "loss.margn: unknown setting; did you mean loss.margin?"),
        ({"name": "hinge", "temperature": 0.1}, "loss.temperature: unknown setting; known here: name, dim_weights, margin, learn_margin"),
        ({"name": "hinge", "margin": 3.0}, "loss.margin: Input should be less than or equal to 2; found 3.0"),
        ({"name": "hinge", "dim_weights": [1.0]}, "loss.dim_weights: needs one weight for each of the 2 model.dims"),
    ],
)
def test_settings_are_checked_by_the_loss_that_they_name(loss: dict[str, object], expected: str, prepared: Path, tmp_path: Path) -> None:
    root = write_workspace(tmp_path / "checkout", prepared, loss=loss)
    with pytest.raises(ConfigError) as caught:
        load_params(root / "params.yaml")
    assert expected in str(caught.value)


def test_settings_without_a_loss_are_an_error(prepared: Path, tmp_path: Path) -> None:
    @register_loss_settings
    class LonelySettings(LossSettings):
        name: str = "lonely"

    root = write_workspace(tmp_path / "checkout", prepared, loss={"name": "lonely"})
    with pytest.raises(ConfigError, match=r"loss\.name: lonely has settings \(LonelySettings\), but no loss .*; known: nested_infonce"):
        run(root)
