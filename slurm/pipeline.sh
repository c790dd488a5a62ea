#!/bin/bash
# Submits a whole run as jobs, each after the one before it has succeeded: download, prepare, train, infer, evaluate.
#
#   slurm/pipeline.sh configs/cc3m
#   CONTAINER=container.sif slurm/pipeline.sh configs/cc3m --partition=gpu --account=mine
#
# The folder says what they do: download.args has the flags of download.py, train.yaml is a config of train.py, and
# prepare.yaml, infer.yaml and evaluate.yaml hold jobs of inference.py. A stage whose file is not there is left out. In
# resources.args are the flags of sbatch that one stage needs (`train --nodes=2 --gpus-per-node=4`); flags after the
# folder are for all of them.
set -euo pipefail

folder=${1:?expected a folder of stages; see the head of $0}
shift
after=()

submit() {
    local stage=$1 script=$2
    shift 2
    read -ra own <<< "$(sed -n "s/^$stage //p" "$folder/resources.args" 2> /dev/null)"
    id=$(sbatch --parsable --job-name="$stage" --kill-on-invalid-dep=yes "${after[@]}" "${all[@]}" "${own[@]}" \
        "slurm/$script.sbatch" "$@")
    id=${id%%;*} # the name of the cluster may follow
    echo "$stage: job $id${after[*]:+, ${after[*]#--}}"
    after=("--dependency=afterok:$id")
}

all=("$@")
if [ -f "$folder/download.args" ]; then
    read -ra flags <<< "$(grep -v '^#' "$folder/download.args" | tr '\n' ' ')"
    submit download download "${flags[@]}"
fi
if [ -f "$folder/prepare.yaml" ]; then submit prepare evaluate -f "$folder/prepare.yaml"; fi
if [ -f "$folder/train.yaml" ]; then submit train train --config "$folder/train.yaml"; fi
if [ -f "$folder/infer.yaml" ]; then submit infer infer -f "$folder/infer.yaml"; fi
if [ -f "$folder/evaluate.yaml" ]; then submit evaluate evaluate -f "$folder/evaluate.yaml"; fi
echo "follow them: squeue --me; their logs: STAGE-ID.log here"
