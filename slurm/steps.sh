# Sourced by the batch scripts: `step COMMAND` runs COMMAND as a step of the job, in the image that CONTAINER names if it
# is set (BIND: folders to bind beside HF_HOME, parted by commas), and has Slurm queue the job again where it was stopped
# early.
#
# A command that was stopped by a signal has saved its state and ends with 75; the same command goes on. Where the time
# is nearly up Slurm sends USR1 to this script (#SBATCH --signal=B:USR1@60), which stops the step.

# One task of an array has the number of the whole array as its own.
job=$SLURM_JOB_ID
[ -z "${SLURM_ARRAY_TASK_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID

warned=
# To the processes of the step, where task.sh makes SIGTERM of it for the command.
trap 'warned=1; echo "the time is nearly up: stopping" >&2; scancel --signal=URG "$job"' USR1

# Not from where the script lies: Slurm runs a copy.
cd "${SLURM_SUBMIT_DIR:?is not set: submit this file with sbatch}" || exit
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # which srun does not take over from sbatch since Slurm 22.05
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}

# Where Slurm reaches the first node; MASTER_ADDR=NAME sbatch ... names another of its interfaces.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR=${MASTER_ADDR:-$(scontrol show node "$first" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')}

PYTHON=${PYTHON:-python3}
run=()
if [ -n "${CONTAINER:-}" ]; then
    PYTHON=python3
    bind=${BIND:-$PWD}
    [ ! -d "${HF_HOME:-}" ] || bind+=",$HF_HOME"
    run=("${APPTAINER:-apptainer}" exec --nv --bind "$bind" "$CONTAINER")
fi

step() {
    local code=75 pid
    if [ -z "$warned" ]; then
        # A process that dies leaves its work to the others.
        srun --kill-on-bad-exit=0 --wait=0 bash slurm/task.sh "${run[@]}" "$@" &
        pid=$!
        wait "$pid"
        code=$?
        if [ -n "$warned" ]; then # which ended the wait
            wait "$pid"
            code=$?
        fi
    fi
    if [ "$code" = 75 ] || { [ -n "$warned" ] && [ "$code" != 0 ]; }; then
        echo "stopped early: queued again" >&2
        scontrol requeue "$job"
    fi
    exit "$code"
}
