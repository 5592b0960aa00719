"""The sample that is generated is the one that `data.dvc` names."""

from pathlib import Path

import yaml
from dvc.fs import LocalFileSystem
from dvc_data.hashfile.build import build
from dvc_data.hashfile.db import HashFileDB

from reelnest.data.sample import write_sample

DATA_DVC = Path(__file__).parents[3] / "data.dvc"


def test_the_generated_sample_has_the_hash_that_data_dvc_names(tmp_path: Path) -> None:
    write_sample(tmp_path / "data")
    files = LocalFileSystem()
    _, _, tree = build(HashFileDB(files, str(tmp_path / "cache")), str(tmp_path / "data"), files, "md5", dry_run=True)
    (named,) = yaml.safe_load(DATA_DVC.read_text(encoding="utf-8"))["outs"]
    assert tree.hash_info.value == named["md5"]
    assert len(tree) == named["nfiles"]
