"""Hydra launcher behind `hydra/launcher=slurm`: submitit's, but it outlasts jobs that are lost.

submitit's own launcher ends at the first job without a result, while others run, wait in the queue
or have been requeued. This one waits for all and returns a failed job in the place of a lost one.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

from hydra.core.utils import JobReturn, JobStatus

if find_spec("hydra_plugins.hydra_submitit_launcher"):
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

    class PatientSlurmLauncher(SlurmLauncher):  # type: ignore[misc]
        """Every cell a SLURM job; waits until the last of them has ended."""

        def launch(
            self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
        ) -> Sequence[JobReturn]:
            """Submit the jobs and collect what they return, in order."""
            from submitit import SlurmJob

            results = SlurmJob.results

            def settled(job: Any) -> list[JobReturn]:
                try:
                    found: list[JobReturn] = results(job)
                except Exception as error:  # whatever submitit makes of a job without a result
                    lost = JobReturn()
                    lost.status = JobStatus.FAILED
                    lost.return_value = RuntimeError(
                        f"{error}\nSLURM job {job.job_id} ended without a result: {job.state}"
                    )
                    return [lost]
                return found

            with patch.object(SlurmJob, "results", settled):  # what the inherited launch calls
                returns: Sequence[JobReturn] = super().launch(job_overrides, initial_job_idx)
            return returns
