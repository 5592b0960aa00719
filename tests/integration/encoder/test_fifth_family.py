"""A fifth family is one file: with it, a model is built, loaded, trained, saved and opened. It runs alone, because it stays registered."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
FILES = {"subclass": "tests/support/fifth_family.py", "protocol": "tests/support/toy_family.py"}
SCRIPT = """
import sys
from pathlib import Path
import numpy as np, torch
import reelnest
import tests.support.fifth_family
from reelnest.backbones.family import FAMILIES
from reelnest.backbones.tiny import build_tiny
from reelnest.encoder.batches import Batcher
from reelnest.encoder.saved import save_model
from reelnest.settings import Lora, Model, Preprocess, Tiny
from tests.support.model_inputs import TEXTS, mixed_entries, trained

folder = Path(sys.argv[1])
sizes = Tiny(hidden_size=64, layers=2, heads=2, vision_hidden_size=32, vision_layers=2, vision_heads=2, vocabulary=400)
build_tiny(folder / "base", TEXTS, sizes, seed=0, family=FAMILIES["small_vl"])
settings = Model(name_or_path=str(folder / "base"), pooling="last", dims=(16, 64), lora=Lora(r=4, vision=True))
encoder, tokenizer = trained(folder / "base", settings)
assert encoder.family.title == "Small-VL"
vectors = encoder.train()(Batcher(tokenizer, settings, encoder.family)(mixed_entries()))
vectors.square().mean().backward()
assert all(parameter.grad is not None for parameter in encoder.parameters() if parameter.requires_grad)
save_model(folder / "model", encoder.eval(), tokenizer, settings, Preprocess(frames=4), None)
opened = reelnest.load(folder / "model", device="cpu").encode(mixed_entries(), dim=16)
own = torch.nn.functional.normalize(vectors.detach()[:, :16], dim=1)
np.testing.assert_allclose(opened, own, atol=1e-4)
"""


def test_one_file_adds_a_family(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_guide_says_how_long_such_a_file_is() -> None:
    guide = " ".join((ROOT / "docs" / "extending.md").read_text(encoding="utf-8").split())
    for name, file in FILES.items():
        lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
        assert re.search(rf"`{file}`.{{0,150}}\b{lines} lines", guide), (name, lines)
