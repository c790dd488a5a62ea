# Runs a command as one task of a step. Where a signal stopped it the exit code is 75, also where the signal came before
# the command could answer to it, or where torchrun is between, which ends with 1.
stopped=
trap 'stopped=1; kill -TERM "$pid"' TERM USR1
"$@" &
pid=$!
wait "$pid"
code=$?
if [ -n "$stopped" ]; then  # which ended the wait
    while kill -0 "$pid" 2> /dev/null; do wait "$pid"; done
    wait "$pid"
    code=$?
    [ "$code" = 0 ] || code=75
fi
exit "$code"
