"""The commands that rebuild a version: values of a lineage are quoted for the shell."""

import shlex

from reelnest.artifacts.lineage import Commit, DataVersion, Environment
from reelnest.registry.lineage.lineage import Lineage
from reelnest.registry.lineage.rebuilding import rebuild_commands

HOSTILE = "x'; touch taken; $(touch taken) `touch taken` #"


def test_no_value_of_a_lineage_becomes_a_command() -> None:
    lineage = Lineage(
        model_hash="h",
        commit=Commit(hash=HOSTILE, clean=False, changes_saved=True, repository=HOSTILE, published=False, folder=HOSTILE),
        data=DataVersion(hash=HOSTILE, files=1, bytes=1, sample_seed=None, remote=None, cache=HOSTILE),
        dvc_lock=True,
        stale=[HOSTILE],
        validation=None,
        evaluation_data=HOSTILE,
        flow_run=None,
        environment=Environment.model_construct(differing=[HOSTILE]),
    )
    commands = [line for line in rebuild_commands(lineage, HOSTILE, "1", f"http://{HOSTILE}") if not line.startswith("#")]
    assert sum("touch" in line for line in commands) == 8
    for line in commands:
        words = shlex.split(line, comments=True)
        assert all(HOSTILE in word for word in words if "touch" in word), line
        assert "touch" not in words, line
