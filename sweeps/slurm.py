"""A sweep on a SLURM cluster: `.venv/bin/python sweeps/slurm.py sweeps/estimators.yml`, on a login node.

A Dask scheduler runs here, its workers are jobs of one process each. The folder of the runs must be on a file
system that the nodes share, and so must this checkout with its .venv. Stop it and call it again whenever you
like: what has finished is kept. Edit the numbers below to suit the sweep and the cluster.
"""

import sys
import threading
from pathlib import Path

from dask_jobqueue.slurm import SLURMCluster

from bnicl.__main__ import main
from bnicl.batch import sweeps

JOBS = 20  # workers, each with one run at a time
CORES = 2  # for each of them: a run's torch threads
MEMORY = "4GB"  # for each of them
WALLTIME = "02:00:00"  # a run whose job ends is given to another job, and the job is submitted again
EVERY = 30.0  # seconds between two looks at whether jobs are missing

if __name__ == "__main__":
    sweeps.load_sweep(sys.argv[1])  # a mistake in the file is found before a job is submitted
    root = Path(__file__).resolve().parents[1]
    with SLURMCluster(
        cores=1,
        processes=1,
        memory=MEMORY,
        walltime=WALLTIME,
        job_cpu=CORES,
        python=sys.executable,
        job_script_prologue=[f"cd {root}", f"export OMP_NUM_THREADS={CORES}"],
        log_directory="runs/slurm",
    ) as cluster:
        stopped = threading.Event()

        def keep_all_jobs() -> None:
            while True:
                cluster.scale(JOBS)  # submits those that have ended
                if stopped.wait(EVERY):
                    return

        threading.Thread(target=keep_all_jobs, daemon=True).start()
        code = main(["sweep", *sys.argv[1:], "--scheduler", cluster.scheduler_address])
        stopped.set()
    sys.exit(code)
