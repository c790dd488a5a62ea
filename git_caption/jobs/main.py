"""The command line behind `inference.py`: reads the jobs, checks all of them, runs them one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from git_caption import command_line, processes
from git_caption.errors import UsageError
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the jobs of a command line.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        The exit code: 0 done, 1 a job failed, 2 wrong command or parameters, 75 stopped by a signal.
    """
    stopped = "stopped; run the same command again to go on"
    return command_line.run(_run, argv, stopped=stopped, end=processes.end)


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


def _run(argv: Sequence[str]) -> None:
    arguments = _parser().parse_args(argv)
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
    for job, _ in jobs:
        if not job.on_ranks:
            processes.require_one(table.name_of(job))
    if not all(job.by_itself for job, _ in jobs):
        processes.meet()
    for job, params in jobs:
        job.load_function()(params)


def _parser() -> command_line.Parser:
    parser = command_line.Parser(
        "inference.py", "Caption images, answer questions about them and score the results.", EPILOG
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-p", "--param", metavar="DICT", help="one job")
    what.add_argument("-f", "--file", metavar="FILE", help="one job, or a list of them, as YAML or JSON")
    what.add_argument("--list", action="store_true", help="name every job, with one line about it")
    return parser
