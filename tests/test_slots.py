"""The launcher `slots`: Hydra's own contract for launchers, then isolation and devices."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite
from omegaconf import DictConfig

from finegrid.errors import UserError
from finegrid.grid import pool
from finegrid.training import heartbeat

pytestmark = pytest.mark.usefixtures("hydras_own_defaults")
LIGHT = ["hydra.launcher.preload=hydra"]  # what the jobs here need


@pytest.mark.parametrize(("launcher_name", "overrides"), [("slots", LIGHT)])
class TestContract(LauncherTestSuite):
    """What Hydra asks of any launcher."""


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"),
    [({}, ["-m", "hydra/launcher=slots", *LIGHT])],
)
class TestContractOfScripts(IntegrationTestSuite):
    """What Hydra asks of any launcher, from scripts of their own."""


Run = Callable[..., list[JobReturn]]


@pytest.fixture
def run(hydra_sweep_runner: Any, tmp_path: Path) -> Run:
    """Run a function over `+x=0,1,...` on slots, and give the jobs' returns."""

    def run(task: Callable[[DictConfig], Any], jobs: int, *options: str) -> list[JobReturn]:
        values = ",".join(map(str, range(jobs)))
        overrides = ["hydra/launcher=slots", *LIGHT, f"+x={values}", *options]
        sweep = hydra_sweep_runner(
            calling_file=None,
            calling_module="hydra.test_utils.a_module",
            task_function=task,
            config_path="configs",
            config_name="compose.yaml",
            overrides=overrides,
            temp_dir=tmp_path,
        )
        try:
            with sweep:
                return list(sweep.returns[0])
        except RuntimeError as error:  # Hydra's sweeper raises the first failure
            raise AssertionError(error) from error

    return run


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def exits() -> None:
    sys.exit(3)


def raises() -> None:
    class Odd(Exception):  # loads nowhere else
        def __init__(self, one: int, two: int) -> None:
            super().__init__("odd")

    raise Odd(1, 2)


def hangs() -> None:
    time.sleep(600)


def hangs_for_good() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        pass


@pytest.fixture
def returns(monkeypatch: pytest.MonkeyPatch) -> list[JobReturn]:
    """Collects the returns before Hydra's sweeper looks at them and raises."""
    Plugins.instance()  # which executes each plugin's module anew, and with it the class below
    from hydra_plugins.finegrid_launcher.slots import SlotsLauncher

    seen: list[JobReturn] = []
    launch = SlotsLauncher.launch

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.extend(launch(self, *args, **kwargs))
        return seen

    monkeypatch.setattr(SlotsLauncher, "launch", spy)
    return seen


def gone(pid: int) -> bool:
    """Wait until a process has ended; a zombie nobody has asked after has ended."""
    while True:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.05)


HARMS = {  # by number of a job -> what becomes of it
    1: (killed, "killed by SIGKILL"),
    2: (exits, "exit code 3"),
    3: (raises, "Odd: odd"),
    4: (hangs, "no step of work was done for 8 s, so the watchdog ended it"),
    5: (hangs_for_good, "no step of work was done for 8 s"),
}


def test_a_job_takes_down_itself_alone(run: Run, returns: list[JobReturn]) -> None:
    def task(cfg: DictConfig) -> int:
        if cfg.x in HARMS:
            HARMS[cfg.x][0]()
        return os.getpid()

    with pytest.raises(AssertionError, match="killed by SIGKILL"):
        run(task, 7, "hydra.launcher.cpu_slots=3", "hydra.launcher.stall_s=8")
    for number, one in enumerate(returns):
        assert (one.status == JobStatus.COMPLETED) == (number not in HARMS), number
        if number in HARMS:
            assert HARMS[number][1] in str(one._return_value)
    processes = {returns[0].return_value, returns[6].return_value}
    assert len(processes - {os.getpid()}) == 2, "each job in a process of its own"


@pytest.mark.nightly  # a job that hangs stands for it in test_sweep
def test_a_job_ends_at_its_limit_though_it_works(run: Run, returns: list[JobReturn]) -> None:
    def works(cfg: DictConfig) -> None:
        while cfg.x == 1:
            heartbeat.beat()
            time.sleep(0.1)

    with pytest.raises(AssertionError, match=r"longer than the limit of 8 s"):
        run(works, 2, "hydra.launcher.timeout_s=8", "hydra.launcher.stall_s=6")
    assert [one.status == JobStatus.COMPLETED for one in returns] == [True, False]


def test_where_a_job_hung_stands_in_its_output(
    run: Run, returns: list[JobReturn], tmp_path: Path
) -> None:
    def task(cfg: DictConfig) -> None:
        hangs()

    with pytest.raises(AssertionError, match=r"output\.log tells where"):
        run(task, 1, "hydra.launcher.stall_s=4")
    (output,) = tmp_path.rglob("output.log")
    assert "hangs" in output.read_text()


def test_an_import_that_hangs_is_one_line(run: Run, tmp_path: Path) -> None:
    module = tmp_path / "sleepy.py"
    module.write_text("import time; time.sleep(600)")
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        with pytest.raises(UserError, match=r"had not imported everything after 5 s"):
            run(os.getpid, 1, "hydra.launcher.stall_s=5", "hydra.launcher.preload=sleepy")


@pytest.mark.parametrize("option", ["timeout_s=0", "stall_s=-1"])
def test_no_time_at_all_is_refused(run: Run, option: str) -> None:
    with pytest.raises(Exception, match=rf"hydra.launcher.{option}(.0)? must be above 0"):
        run(os.getpid, 1, f"hydra.launcher.{option}")


def test_what_a_job_starts_ends_with_it(run: Run, returns: list[JobReturn]) -> None:
    def task(cfg: DictConfig) -> int:
        return subprocess.Popen(["sleep", "600"]).pid

    (one,) = run(task, 1)
    assert gone(one.return_value)


def test_a_dead_fork_server_is_replaced(run: Run, returns: list[JobReturn]) -> None:
    def task(cfg: DictConfig) -> int:
        if cfg.x == 1:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        return os.getpid()

    with pytest.raises(AssertionError):
        run(task, 4, "hydra.launcher.cpu_slots=1")
    done = [one.status == JobStatus.COMPLETED for one in returns]
    assert done == [True, False, True, True]


@pytest.mark.parametrize("gpus", ["[4,7]", "2"])
def test_each_job_sees_its_own_gpu(run: Run, returns: list[JobReturn], gpus: str) -> None:
    def task(cfg: DictConfig) -> tuple[str, str, float, float]:
        begun = time.time()
        time.sleep(0.5)
        env = os.environ
        return env["CUDA_VISIBLE_DEVICES"], env["FINEGRID_SLOT"], begun, time.time()

    run(task, 6, f"hydra.launcher.gpus={gpus}", "hydra.launcher.slots_per_gpu=2")
    values = [one.return_value for one in returns]
    assert {gpu for gpu, *_ in values} == ({"4", "7"} if gpus == "[4,7]" else {"0", "1"})
    assert len({slot for _, slot, *_ in values}) == 4
    for slot in {slot for _, slot, *_ in values}:  # one job at a time in each slot
        times = sorted((begun, ended) for _, name, begun, ended in values if name == slot)
        assert all(one[1] <= other[0] for one, other in pairwise(times))


def test_slots_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    three = pool.slots(0, per_gpu=1, on_cpu=3)
    assert [slot.threads for slot in three] == [2, 2, 2]
    assert [slot.gpu for slot in three] == [None] * 3
    assert len(pool.slots(0, per_gpu=1, on_cpu=None)) == 8
    on_gpus = pool.slots([1, "GPU-a"], per_gpu=2, on_cpu=None)
    assert [slot.gpu for slot in on_gpus] == ["1", "GPU-a", "1", "GPU-a"]
    assert [slot.threads for slot in on_gpus] == [2] * 4
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert [slot.threads for slot in pool.slots(0, per_gpu=1, on_cpu=3)] == [1, 1, 1]


def test_visible_gpus_are_found_without_cuda(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("0000:01", "0000:02"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(pool, "NVIDIA", tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [slot.gpu for slot in pool.slots("auto", per_gpu=1, on_cpu=None)] == ["3", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [slot.gpu for slot in pool.slots("auto", per_gpu=1, on_cpu=None)] == ["0", "1"]


@pytest.mark.parametrize(
    "wrong",
    [{"per_gpu": 0, "on_cpu": None}, {"per_gpu": 1, "on_cpu": 0}],
)
def test_bad_slots_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"must be at least 1"):
        pool.slots("auto", **wrong)
    with pytest.raises(UserError, match=r"hydra.launcher.gpus=all"):
        pool.slots("all", per_gpu=1, on_cpu=None)
