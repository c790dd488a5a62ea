"""The command line behind `inference.py`: reads the jobs, checks all of them, runs them one after the other."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

from git_caption import processes
from git_caption.errors import GitCaptionError, Stopped, UsageError
from git_caption.jobs import table
from git_caption.params import literal, schema

Planned = tuple[table.Job, Any]

EPILOG = """\
-p and -f take jobs as a dict with 'type' and the keys of that job, in the spelling of Python, JSON or YAML:

  python3 inference.py -p "{'type': 'help', 'job': 'test_git_inference_single_tsv'}"

tells a job's keys and prints an example that runs; --list names the jobs. -f may hold a list of dicts: all of them
are checked before the first one runs, and they share a loaded model.

Exit codes: 0 done; 1 the job failed; 2 the command or its parameters are wrong; 75 stopped by a signal, run the same
command again to go on.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A wrong command line as one line, as every other error of ours."""
        raise UsageError(f"{message}; see --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the jobs of a command line.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        The exit code: 0 done, 1 a job failed, 2 wrong command or parameters, 75 stopped by a signal.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    _make_printable()
    try:
        _run(_parser().parse_args(arguments))
        sys.stdout.flush()
        return 0
    except GitCaptionError as error:
        return _report(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return _report("stopped; run the same command again to go on", Stopped.exit_code, debug)
    except BrokenPipeError:
        # Whoever read the output has gone; nothing can be told to them, and Python's flush at exit would fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # the machine's fault: a full disk, a permission
        return _report(f"{error.filename or 'this machine'}: {error.strerror or error}", 1, debug)
    except Exception as error:  # a bug of ours: the user gets one line, the traceback on request
        line = " ".join(f"{type(error).__name__}: {error}".split())
        advice = "" if debug else "; run again with --debug for the traceback"
        return _report(f"internal error: {line}{advice}", 1, debug)


def plan(jobs: Sequence[dict[str, Any]], source: str) -> list[Planned]:
    """Each job with its parameters; nothing is run and no weight is loaded.

    Args:
        jobs: dicts with 'type'.
        source: `-p` or the file that they are from.

    Raises:
        UsageError: what is wrong with any of them, a line for each fault. A file that an earlier job writes counts
            as there.
    """
    planned: list[Planned] = []
    faults: list[str] = []
    promised: list[str] = []
    for number, given in enumerate(jobs, 1):
        where = source if len(jobs) == 1 else f"{source}: job {number}"
        keys = dict(given)
        try:
            if "type" not in keys:
                raise UsageError(f"{where}: missing key 'type', the name of a job; --list names them")
            name = keys.pop("type")
            job = table.find(name)
        except UsageError as error:
            faults.append(str(error))
            continue
        params, found = schema.read(job.load_params(), keys, name if len(jobs) == 1 else f"{where} ({name})", promised)
        faults += found
        if params is not None:
            planned.append((job, params))
            promised += schema.outputs(params)
    if faults:
        raise UsageError("\n".join(faults))
    return planned


def _run(arguments: argparse.Namespace) -> None:
    if arguments.list:
        from git_caption.jobs.help import job_list

        print(job_list())
        return
    if arguments.param is not None:
        jobs = plan([literal.parse_literal(arguments.param, "-p")], "-p")
    elif arguments.file is not None:
        jobs = plan(literal.parse_file(arguments.file), arguments.file)
    else:
        raise UsageError("expected a job, given with -p DICT or -f FILE; see --help")
    processes.require_one("inference.py")
    if not arguments.debug:
        _quiet_libraries()
    _stop_on_sigterm()
    for job, params in jobs:
        job.load_function()(params)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="inference.py",
        description="Caption images, answer questions about them and score the results.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-p", "--param", metavar="DICT", help="one job")
    what.add_argument("-f", "--file", metavar="FILE", help="one job, or a list of them, as YAML or JSON")
    what.add_argument("--list", action="store_true", help="name every job, with one line about it")
    parser.add_argument(
        "--debug", action="store_true", help="add the traceback to an error, and the libraries' messages"
    )
    return parser


def _report(message: str, code: int, debug: bool) -> int:
    """One `error:` block on stderr, further lines indented under the first; after the traceback if asked for."""
    if debug:
        traceback.print_exc()
    print("error: " + message.replace("\n", "\n       "), file=sys.stderr)
    return code


def _make_printable() -> None:
    """Let a terminal that lacks a character show its escape instead of ending the job."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _quiet_libraries() -> None:
    """Keep the libraries' advice and bars from the output; where the user has set a variable, it stands."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("git_caption").setLevel(logging.WARNING)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _stop_on_sigterm() -> None:
    """Let SIGTERM end a job as Ctrl-C does; a worker process that inherits this dies of it as usual."""
    main_process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == main_process:
            raise KeyboardInterrupt
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
