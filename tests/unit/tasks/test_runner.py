"""Commands that are really started, cancelled and killed. What must hold: no process with the mark survives its runner."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tasks.process.guard import MARKS
from tasks.process.runner import Command, CommandError, output_of, run

ROOT = Path(__file__).parents[3]
TEST_MARK = "REELNEST_TEST"

# A tree like torch's elastic launcher: a parent, and a worker in a session of its own that is deaf to SIGTERM.
STUBBORN_TREE = """
import signal, subprocess, sys, time
worker = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('worker ready', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", worker], start_new_session=True)
print("parent ready", flush=True)
time.sleep({parent_sleeps})
"""


@pytest.fixture
def mine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[psutil.Process]]:
    """Everything this test starts carries a variable of its own; returns the processes that still run."""
    name = request.node.name
    monkeypatch.setenv(TEST_MARK, name)

    def running() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(TEST_MARK) == name:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    return running


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.05)


def test_lines_of_both_streams_arrive_in_order() -> None:
    lines = output_of(python("import sys\nfor i in range(3): print(i); print(-i, file=sys.stderr)"))
    assert lines == ["0", "0", "1", "-1", "2", "-2"]


def test_lines_arrive_while_the_command_still_runs() -> None:
    with Command(python("import time; print('first', flush=True); time.sleep(600)")) as command:
        assert command.line(timeout_seconds=20) == "first"
        assert command.status is None


def test_of_a_progress_bar_the_last_state_is_kept() -> None:
    lines = output_of(python(r"import sys; sys.stdout.write('10%\r 50%\r100%\nnext\r\n\nlast')"))
    assert lines == ["100%", "next", "", "last"]


def test_bytes_that_are_no_text_do_not_stop_the_reader() -> None:
    assert output_of(python(r"import os; os.write(1, b'a\xff\nb\n')")) == ["a�", "b"]


def test_arguments_are_never_seen_by_a_shell() -> None:
    hostile = "$(echo hi); `id` 'x' \"y\" *"
    assert output_of([*python("import sys; print(sys.argv[1])"), hostile]) == [hostile]


def test_a_failure_tells_status_and_last_lines() -> None:
    with pytest.raises(CommandError) as failure:
        output_of(python("import sys\nfor i in range(100): print(f'line {i}')\nsys.exit(3)"))
    assert failure.value.status == 3
    assert failure.value.tail == tuple(f"line {i}" for i in range(80, 100))
    assert "status 3" in str(failure.value)
    assert "line 99" in str(failure.value)
    assert "line 79" not in str(failure.value)


def test_a_command_killed_by_a_signal_says_so() -> None:
    with pytest.raises(CommandError, match="signal 9") as failure:
        output_of(python("import os; os.kill(os.getpid(), 9)"))
    assert failure.value.status == 137


def test_a_program_that_does_not_exist_is_named() -> None:
    with pytest.raises(CommandError, match="no-such-program: cannot be started"):
        output_of(["no-such-program"])


def test_programs_of_the_running_interpreter_come_first_on_the_path() -> None:
    assert output_of(python("import os; print(os.environ['PATH'].split(os.pathsep)[0])")) == [str(Path(sys.executable).parent)]


def test_a_command_can_be_interrupted_though_its_caller_ignores_interrupts() -> None:
    """As a caller does that a shell started in the background."""
    command = python("import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)")
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    code = f"{ignore}\nfrom tasks.process.runner import output_of\nprint(output_of({command!r}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(python(code), env=environment, capture_output=True, text=True, check=True).stdout.strip() == "['True']"


def test_what_a_finished_command_left_running_is_ended(mine: Callable[[], list[psutil.Process]]) -> None:
    lines = output_of(python("import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True, stdout=-3); print('done')"))
    assert lines == ["done"]
    assert mine() == []


def test_a_time_out_ends_the_whole_tree(mine: Callable[[], list[psutil.Process]]) -> None:
    lines: list[str] = []
    with pytest.raises(TimeoutError, match="longer than 3 s"):
        run(python(STUBBORN_TREE.format(parent_sleeps=600)), on_line=lines.append, timeout_seconds=3, grace_seconds=0.5)
    assert "worker ready" in lines
    assert mine() == []


def test_an_exception_in_the_caller_ends_the_whole_tree(mine: Callable[[], list[psutil.Process]]) -> None:
    class Cancelled(BaseException):
        """Not an Exception, as Prefect's is not."""

    def cancel(line: str) -> None:
        if line == "worker ready":
            raise Cancelled

    with pytest.raises(Cancelled):
        run(python(STUBBORN_TREE.format(parent_sleeps=600)), on_line=cancel, grace_seconds=0.5)
    assert mine() == []


def test_a_worker_that_outlived_its_parent_is_ended(mine: Callable[[], list[psutil.Process]]) -> None:
    with Command(python(STUBBORN_TREE.format(parent_sleeps=0.5)), grace_seconds=0.5) as command:
        wait_until(lambda: command.status is not None)
        assert command.status == 0
    assert mine() == []


def test_the_tree_is_ended_though_its_guard_was_killed(mine: Callable[[], list[psutil.Process]]) -> None:
    with Command(python(STUBBORN_TREE.format(parent_sleeps=600)), grace_seconds=0.5) as command:
        wait_until(lambda: command.line(timeout_seconds=1) == "worker ready")
        guard = next(process for process in mine() if "guard.py" in " ".join(process.cmdline()))
        guard.kill()
        guard.wait(10)
        assert len(mine()) >= 2
    assert mine() == []


def test_marks_of_outer_runners_are_kept(mine: Callable[[], list[psutil.Process]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARKS, "outer")
    with Command(python(f"import os; print(os.environ['{MARKS}'])")) as command:
        assert command.line(timeout_seconds=20) == f"outer:{command.mark}"


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_survives_a_runner_that_was_killed(signal_number: signal.Signals, mine: Callable[[], list[psutil.Process]]) -> None:
    tree = python(STUBBORN_TREE.format(parent_sleeps=600))
    # A shell's background job, and all that it starts, ignores Ctrl-C until told otherwise.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"from tasks.process.runner import run\nrun({tree!r}, on_line=lambda line: print(line, flush=True), grace_seconds=0.5)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(python(code), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as runner:
        assert runner.stdout is not None
        seen = {runner.stdout.readline().strip() for _ in range(2)}
        assert seen == {"parent ready", "worker ready"}
        assert len(mine()) >= 4  # runner, guard, parent, worker
        runner.send_signal(signal_number)
        assert runner.wait(20) != 0
    wait_until(lambda: not mine())


def test_a_command_in_a_thread_that_ended_goes_on() -> None:
    """With PR_SET_PDEATHSIG it would not: the signal is tied to the thread that forked."""
    commands: list[Command] = []
    code = "import time; time.sleep(1); print('still here')"
    thread = threading.Thread(target=lambda: commands.append(Command(python(code))))
    thread.start()
    thread.join()
    with commands[0] as command:
        assert command.line(timeout_seconds=20) == "still here"
