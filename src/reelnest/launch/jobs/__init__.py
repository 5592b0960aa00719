"""Runs a stage as a job of a cluster: submits it, follows it, ends it, and ends with its exit status.

In: a `JobSpec` on the command line. Out: the job's log on standard error, and an exit status. Open `follower.py` first: it runs where the
stage was started. `slurm.py` calls SLURM's commands for it, and `slurm_job.py` runs inside the job. Both share the files of `job.py`.
"""
