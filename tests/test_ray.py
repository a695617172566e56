"""The launcher `ray` on a real ray: Hydra's own contract, isolation, devices, a sweep, Ctrl-C."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest
from conftest import ROOT
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import LauncherTestSuite
from omegaconf import DictConfig

from finegrid.runs.record import read

pytestmark = pytest.mark.usefixtures("hydras_own_defaults")
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="pip install 'finegrid[ray]'")
CLUSTER = """
import ray, sys
started = ray.init("local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
print(started.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # no ray worker can import it
LIGHT = ["hydra/launcher=ray", "hydra.launcher.preload=hydra"]  # what the jobs here need


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster with 4 CPUs and, as far as ray knows, 2 GPUs, where `address=auto` finds it."""
    if find_spec("ray") is None:
        yield
        return
    command, pipe = [sys.executable, "-c", CLUSTER], subprocess.PIPE
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            assert process.stdout is not None
            patch.setenv("RAY_ADDRESS", process.stdout.readline().strip())
            yield
            process.communicate()


JOIN = [*LIGHT, "hydra.launcher.address=auto"]


@needs_ray
@pytest.mark.parametrize(("launcher_name", "overrides"), [("ray", JOIN[1:])])
class TestContract(LauncherTestSuite):
    """What Hydra asks of any launcher."""


Run = Callable[..., list[JobReturn]]


@pytest.fixture
def run(hydra_sweep_runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a function over `+x=0,1,...`, and give the returns, those of failed jobs too."""
    Plugins.instance()  # loads every plugin's module anew, once
    from hydra_plugins.finegrid_launcher.ray import RayLauncher

    def run(
        task: Callable[[DictConfig], Any],
        jobs: int,
        *options: str,
        enough: int = 99,
        unwanted: tuple[int, ...] = (),
    ) -> list[JobReturn]:
        seen: dict[int, JobReturn] = {}
        launch = RayLauncher.launch

        def ended(index: int, returned: JobReturn) -> bool:
            seen[index] = returned
            return len(seen) < enough

        def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
            self.ended, self.wanted = ended, lambda index: index not in unwanted
            return launch(self, *args, **kwargs)

        monkeypatch.setattr(RayLauncher, "launch", spy)
        sweep = hydra_sweep_runner(
            calling_file=None, calling_module="hydra.test_utils.a_module", task_function=task,
            config_path="configs", config_name="compose.yaml", temp_dir=tmp_path / "sweep",
            overrides=[f"+x={','.join(map(str, range(jobs)))}", *options],
        )  # fmt: skip
        with sweep:
            return [seen[index] for index in sorted(seen)]

    return run


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kills_the_worker() -> None:
    psutil.Process().parents()[1].kill()  # the parent is the fork server
    time.sleep(60)


def exits() -> None:
    sys.exit(3)


def raises() -> None:
    class Odd(Exception):  # loads nowhere else
        def __init__(self, one: int, two: int) -> None:
            super().__init__("odd")

    raise Odd(1, 2)


def hangs() -> None:
    time.sleep(600)


@needs_ray
@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (killed, "killed by SIGKILL"),
        (kills_the_worker, "WorkerCrashedError"),
        (exits, "exit code 3"),
        (raises, "Odd: odd"),
        (hangs, "no step of work was done for 60 s"),
    ],
)
def test_a_job_takes_down_itself_alone(
    run: Run, harm: Callable[[], None], says: str, tmp_path: Path
) -> None:
    log = str(tmp_path / "started")

    def task(cfg: DictConfig) -> int:
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{cfg.x}\n")
        if cfg.x == 1:
            harm()
        return os.getpid()

    watched = ["hydra.launcher.stall_s=60"] if harm is hangs else []
    returns = run(task, 4, *JOIN, *watched)
    assert [one.status == JobStatus.COMPLETED for one in returns] == [True, False, True, True]
    assert says in str(returns[1]._return_value)
    assert len({one.return_value for one in returns if one is not returns[1]}) == 3
    assert sorted(Path(log).read_text().split()) == ["0", "1", "2", "3"], "each started once"


@needs_ray
def test_the_caller_may_stop_the_rest(run: Run) -> None:
    returns = run(lambda cfg: cfg.x, 20, *JOIN, "hydra.launcher.num_gpus=1", enough=2)
    assert 2 <= len(returns) <= 5  # two at a time, one waiting


@needs_ray
def test_the_caller_may_leave_jobs_out(run: Run) -> None:
    returns = run(lambda cfg: cfg.x, 5, *JOIN, unwanted=(0, 3))
    assert [one.return_value for one in returns] == [1, 2, 4]


@needs_ray
@pytest.mark.slow
def test_jobs_share_the_gpus_of_a_ray_started_here(run: Run, tmp_path: Path) -> None:
    def task(cfg: DictConfig) -> tuple[str, str, str]:
        (tmp_path / f"job{cfg.x}").touch()
        while len(list(tmp_path.glob("job*"))) < 4:  # until all four run at a time
            time.sleep(0.1)
        env = os.environ
        return env["CUDA_VISIBLE_DEVICES"], env["OMP_NUM_THREADS"], env["FINEGRID_SLOT"]

    options = ["local_gpus=2", "num_gpus=0.5", "local_cpus=8", "num_cpus=2"]
    returns = run(task, 4, *LIGHT, *(f"hydra.launcher.{option}" for option in options))
    gpus, threads, slots = zip(*(one.return_value for one in returns), strict=True)
    assert sorted(gpus) == ["0", "0", "1", "1"]
    assert set(threads) == {"2"}
    assert len(set(slots)) == 4


@needs_ray
def test_without_a_share_of_a_gpu_no_gpu_is_seen(run: Run) -> None:
    (one,) = run(
        lambda cfg: os.environ["CUDA_VISIBLE_DEVICES"], 1, *JOIN, "hydra.launcher.num_gpus=0"
    )
    assert one.return_value == ""


def train(*overrides: str) -> list[str]:
    """A command for cells on a ray started for them."""
    return [
        sys.executable,
        str(ROOT / "train.py"),
        "-m",
        "report=false",
        "hydra/launcher=ray",
        *overrides,
    ]


@needs_ray
@pytest.mark.slow
def test_a_sweep_leaves_its_records(tmp_path: Path) -> None:
    cells = ["method=head,bitfit", "seed=0,1", "budget=steps", "budget.steps=5"]
    command = train(*cells, f"hydra.sweep.dir={tmp_path}", "hydra.launcher.local_cpus=2")
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "4 cells in" in result.stdout
    assert "ray" not in result.stderr, "the view has the screen"
    records = [read(path.parent) for path in tmp_path.rglob("record.json")]
    found = sorted((record.method, record.seed, record.status) for record in records)
    assert found == [(method, seed, "ok") for method in ("bitfit", "head") for seed in (0, 1)]


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ending_the_command_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    cells = ["seed=0,1,2", "budget=seconds", "budget.seconds=200", f"hydra.sweep.dir={tmp_path}"]
    with subprocess.Popen(train(*cells), cwd=ROOT, start_new_session=True) as command:
        while not list(tmp_path.rglob(".claim-1")):
            assert command.poll() is None
            time.sleep(0.5)
        started = psutil.Process(command.pid).children(recursive=True)
        os.killpg(command.pid, number)
        assert command.wait() == 128 + number
    psutil.wait_procs(started)


@needs_ray
def test_a_job_that_fits_nowhere_is_refused_at_once(run: Run) -> None:
    from finegrid.errors import UserError

    with pytest.raises(UserError, match="no machine of ray's has num_cpus=1 and num_gpus=3"):
        run(lambda cfg: 0, 1, *LIGHT, "hydra.launcher.num_gpus=3")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["num_cpus=0"], "num_cpus=0 must be above 0"),
        (["num_gpus=1.5"], "num_gpus=1.5 must be"),
        (["num_gpus=-1"], "num_gpus=-1.0 must be"),
        (["address=auto", "local_cpus=2"], "leave out local_"),
    ],
)
def test_bad_options_are_refused(run: Run, options: list[str], says: str) -> None:
    with pytest.raises(Exception, match=says):
        run(lambda cfg: 0, 1, *LIGHT, *(f"hydra.launcher.{option}" for option in options))


def test_without_ray_one_line_says_what_to_do(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from finegrid.errors import UserError
    from hydra_plugins.finegrid_launcher import ray

    monkeypatch.setattr(ray, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs ray: pip install 'finegrid\[ray\]'"):
        run(lambda cfg: 0, 1, *LIGHT)


def test_nobody_else_pays_for_ray() -> None:
    code = (
        "import sys; from hydra.core.plugins import Plugins;"
        f"from {Launcher.__module__} import Launcher;"
        "print(*(x.__name__ for x in Plugins.instance().discover(Launcher)));"
        "print('ray' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    names, imported = result.stdout.splitlines()
    assert "RayLauncher" in names.split()
    assert "StreamingLauncher" not in names.split()
    assert imported == "False"
