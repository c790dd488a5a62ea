# Runs a command as one task of a step. Where a signal stopped it the exit code is 75, also where the signal came before
# the command could answer to it, or where torchrun is between, which ends with 1.
#
# TERM and USR1 come from Slurm, which sends them to the command as well. URG comes from steps.sh, and to all programs but
# this one it means nothing: one that holds the image of a container would end of TERM, and take the image away.
stopped=
trap 'stopped=1' TERM USR1
trap 'stopped=1; [ -z "$!" ] || kill -TERM "$!"' URG
"$@" &
[ -z "$stopped" ] || kill -TERM "$!" # one that came before there was a command
wait "$!"
code=$?
if [ -n "$stopped" ]; then # which ended the wait
    while kill -0 "$!" 2> /dev/null; do wait "$!"; done
    wait "$!"
    code=$?
    [ "$code" = 0 ] || code=75
fi
exit "$code"
