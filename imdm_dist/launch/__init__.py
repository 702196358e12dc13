"""Launching processes on a cluster: batch jobs, signals, requeue after preemption, and submission to SLURM."""
