#!/bin/bash
# Submits a whole run as jobs, each after the one before it has succeeded: download, prepare, train, infer, evaluate.
#
#   slurm/pipeline.sh configs/cc3m
#   CONTAINER=container.sif slurm/pipeline.sh configs/cc3m --partition=gpu --account=mine
#   STAGES='infer evaluate' slurm/pipeline.sh configs/cc3m                                   from one that failed
#
# The folder says what they do: download.args has the flags of download.py, train.yaml is a config of train.py, and
# prepare.yaml, infer.yaml and evaluate.yaml hold jobs of inference.py. A stage whose file is not there is left out. In
# resources.args are the flags of sbatch that one stage needs (`train --nodes=2 --gpus-per-node=4`); flags after the
# folder are for all of them.
set -euo pipefail

fail() {
    echo "error: $*" >&2
    exit 2
}

folder=${1:-}
[ -d "$folder" ] || fail "expected a folder of stages, found '$folder'; see the head of $0"
shift
all=("$@")
after=()

# The words of stdin, quoted as for a shell, one a line; lines that begin with # are comments.
words() { sed '/^#/d' | xargs --no-run-if-empty printf '%s\n'; }

submit() {
    local script=$1 own=() found id
    shift
    if [ -f "$folder/resources.args" ]; then
        found=$(sed -n "s/^$stage //p" "$folder/resources.args" | words)
        [ -z "$found" ] || mapfile -t own <<< "$found"
    fi
    id=$(sbatch --parsable --job-name="$stage" --kill-on-invalid-dep=yes "${after[@]}" "${all[@]}" "${own[@]}" \
        "slurm/$script.sbatch" "$@")
    id=${id%%;*} # the name of the cluster may follow
    echo "$stage: job $id${after[*]:+, ${after[*]#--}}"
    after=("--dependency=afterok:$id")
}

for stage in ${STAGES:-download prepare train infer evaluate}; do
    case $stage in
        download) file=$folder/download.args ;;
        prepare | train | infer | evaluate) file=$folder/$stage.yaml ;;
        *) fail "STAGES has '$stage'; expected some of download, prepare, train, infer, evaluate" ;;
    esac
    [ -f "$file" ] || continue
    case $stage in
        download)
            found=$(words < "$file")
            mapfile -t flags <<< "$found"
            submit download "${flags[@]}"
            ;;
        train) submit train --config "$file" ;;
        infer) submit infer -f "$file" ;;
        *) submit evaluate -f "$file" ;;
    esac
done
[ ${#after[@]} != 0 ] || fail "$folder has no file of a stage; see the head of $0"
echo "follow them: squeue --me; their logs: STAGE-ID.log here"
