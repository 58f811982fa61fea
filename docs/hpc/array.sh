#!/usr/bin/env bash
# One array task per line of TASKS: a participant's label, or a participant's and a session's,
# such as "01" or "01 baseline". One script for three schedulers; each reads its own lines below.
#
#   Slurm       sbatch --array=1-$(wc -l < TASKS) docs/hpc/array.sh BIDS_DIR OUTPUT_DIR TASKS
#   Grid Engine qsub -t 1-$(wc -l < TASKS) docs/hpc/array.sh BIDS_DIR OUTPUT_DIR TASKS
#   PBS         qsub -J 1-$(wc -l < TASKS) -v BIDS_DIR=/bids,OUTPUT_DIR=/out,TASKS=tasks.txt docs/hpc/array.sh
#
# Resources suit one participant with one session of about 100 volumes; the scheduler's accounting
# tells what yours took.
#SBATCH --job-name=drope
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=10G
#SBATCH --time=04:00:00
#SBATCH --output=drope-%A_%a.out
#SBATCH --open-mode=append
#$ -N drope
#$ -S /bin/bash
#$ -cwd
#$ -pe smp 2
#$ -l h_vmem=5G
#$ -l h_rt=04:00:00
#$ -j y
#PBS -N drope
#PBS -l select=1:ncpus=2:mem=10gb
#PBS -l walltime=04:00:00
#PBS -j oe

set -euo pipefail

# Options of the app itself, the same for every task.
APP_OPTIONS=(
  --skip-bids-validation
)

# The image; DROPE_COMMAND=drope-bidsapp runs the command that is installed on the node instead.
DROPE_IMAGE=${DROPE_IMAGE:-$HOME/drope-bidsapp.sif}
DROPE_COMMAND=${DROPE_COMMAND:-}

# PBS starts jobs in the home folder and passes no arguments to scripts.
cd "${PBS_O_WORKDIR:-.}"
if [ $# -eq 0 ] && [ -n "${TASKS:-}" ]; then
  set -- "$BIDS_DIR" "$OUTPUT_DIR" "$TASKS"
fi
if [ $# -ne 3 ]; then
  echo "usage: $0 BIDS_DIR OUTPUT_DIR TASKS, as a task of an array" >&2
  exit 2
fi
bids_dir=$(realpath "$1")
output_dir=$(realpath -m "$2")
job=${SLURM_ARRAY_JOB_ID:-${JOB_ID:-${PBS_JOBID:-0}}}
number=${SLURM_ARRAY_TASK_ID:-${SGE_TASK_ID:-${PBS_ARRAY_INDEX:-}}}
read -r label session < <(sed -n "${number}p" "$3") || true
if [ -z "${label:-}" ]; then
  echo "line '$number' of $3 is empty" >&2
  exit 2
fi
mkdir -p "$output_dir"

# Working files on the node's own disk, kept if the task fails only until the node cleans up.
# A folder on a shared disk lets a task that was stopped go on where it was: set DROPE_WORK.
work_dir=${DROPE_WORK:-${TMPDIR:-/tmp}/drope-${job%%[!0-9]*}}/$label${session:+-$session}
mkdir -p "$work_dir"

cpus=${SLURM_CPUS_PER_TASK:-${NSLOTS:-${NCPUS:-1}}}
options=(--participant-label "$label" --nprocs "$cpus" --omp-nthreads "$cpus")
# Slurm alone tells a job how much memory it has.
if [ -n "${SLURM_MEM_PER_NODE:-}" ]; then
  options+=(--mem "${SLURM_MEM_PER_NODE}M")
fi

if [ -n "$DROPE_COMMAND" ]; then
  command=("$DROPE_COMMAND" "$bids_dir" "$output_dir" participant --work-dir "$work_dir")
else
  launcher=$(command -v apptainer || command -v singularity)
  command=(
    # Temporary files go to the work folder: the container's own /tmp is small.
    "$launcher" run --containall --env TMPDIR=/work
    --bind "$bids_dir:/bids:ro" --bind "$output_dir:/out" --bind "$work_dir:/work"
    "$DROPE_IMAGE" /bids /out participant --work-dir /work
  )
fi
if [ -n "${session:-}" ]; then
  # Sessions of a participant share its page and its T1w image: one task waits for the other.
  options+=(--session-label "$session")
  mkdir -p "$output_dir/sub-$label"
  command=(flock "$output_dir/sub-$label" "${command[@]}")
fi
exec "${command[@]}" "${options[@]}" "${APP_OPTIONS[@]}"
