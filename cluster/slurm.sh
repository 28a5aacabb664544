#!/usr/bin/env bash
# A search on all nodes of a Slurm job: sbatch [options of sbatch] cluster/slurm.sh [options of the search]
# For instance: sbatch --nodes 4 --gres gpu:2 --time 4:00:00 cluster/slurm.sh --num-samples 500 --results-dir /shared/results
# docs/slurm.md explains every line. Options that you give to sbatch replace those here.

#SBATCH --job-name=vae-tune
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=1:00:00
# three minutes before the end, the trials save themselves, and the job goes back into the queue
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
# a lost node does not end the job
#SBATCH --no-kill

set -eo pipefail                                # not -u: modules of many sites use variables that are not set
# module load python/3.12                       # CHANGE where Python comes from a module
if [ -f .venv/bin/activate ]; then source .venv/bin/activate; fi
exec vae-tune search --address slurm "${@//%a/${SLURM_ARRAY_TASK_ID:-0}}" # %a stands for the task of a job array
