# Runs a command as one task of a step. Where a signal stopped it the exit code is 75, also where the signal came before
# the command could answer to it, or where torchrun is between, which ends with 1.
stopped=
trap 'stopped=1; [ -z "$!" ] || kill -TERM "$!"' TERM USR1
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
