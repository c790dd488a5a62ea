"""What the command lines behind `inference.py` and `train.py` share: how a command ends, whatever happens in it."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from git_caption.errors import GitCaptionError, Stopped, UsageError

AS_CTRL_C = (signal.SIGTERM, signal.SIGUSR1)  # the last is Slurm's early warning


class Parser(argparse.ArgumentParser):
    """A parser of whole flags only, with `--debug`; its text for help keeps its lines."""

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument(
            "--debug", action="store_true", help="add the traceback to an error, and the libraries' messages"
        )

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse does; beside a flag that there is not stands the one most like it."""
        given, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._meant(unknown[0])}")
        return given

    def _meant(self, unknown: str) -> str:
        known = {flag.lstrip("-"): flag for action in self._actions for flag in action.option_strings}
        close = difflib.get_close_matches(unknown.partition("=")[0].lstrip("-"), known, n=1)
        return f"; did you mean {known[close[0]]}?" if close else ""

    def error(self, message: str) -> NoReturn:
        """A wrong command line as one line, as every other error of ours."""
        raise UsageError(f"{message}; see --help")


def _alone(code: int, message: str, show: Callable[[str], None]) -> int:
    if message:
        show(message)
    return code


def run(
    command: Callable[[Sequence[str]], object],
    arguments: Sequence[str] | None,
    stopped: str,
    end: Callable[[int, str, Callable[[str], None]], int] = _alone,
) -> int:
    """Run a command; what it raises becomes one `error:` block on stderr, SIGTERM and SIGUSR1 what Ctrl-C is.

    Args:
        command: takes the arguments.
        arguments: those of a command line; None takes those of the process, which then ends with the command.
        stopped: what is said where a signal ends the command.
        end: takes the exit code, the message of an error and what shows it; gives the exit code. For commands that run
            as several processes, which end together.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong command or parameters, 75 stopped by a signal.
    """
    whole = arguments is None
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    _make_printable()
    if not debug:
        _quiet_libraries()
    return end(*_outcome(command, arguments, stopped, debug=debug, whole=whole), _show)


def _outcome(
    command: Callable[[Sequence[str]], object], arguments: Sequence[str], stopped: str, *, debug: bool, whole: bool
) -> tuple[int, str]:
    """How a command ended: its exit code, and the message of what it raised; the traceback is printed if asked for."""
    try:
        with _stopped_as_by_ctrl_c(whole):
            command(arguments)
        sys.stdout.flush()
        return 0, ""
    except BrokenPipeError:
        # Whoever read the output has gone; nothing can be told to them, and Python's flush at exit would fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1, ""
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        return _told(error, stopped, debug)


def _told(error: BaseException, stopped: str, debug: bool) -> tuple[int, str]:
    """The exit code of an error, and its message."""
    if isinstance(error, GitCaptionError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return Stopped.exit_code, stopped
    if isinstance(error, OSError):  # the machine's fault: a full disk, a permission
        return 1, f"{error.filename or 'this machine'}: {error.strerror or error}"
    # a bug of ours: the user gets one line, the traceback on request
    line = " ".join(f"{type(error).__name__}: {error}".split())
    return 1, f"internal error: {line}{'' if debug else '; run again with --debug for the traceback'}"


def _show(message: str) -> None:
    """One `error:` block on stderr, further lines indented under the first."""
    print("error: " + message.replace("\n", "\n       "), file=sys.stderr)


def _make_printable() -> None:
    """Let a terminal that lacks a character show its escape instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _quiet_libraries() -> None:
    """Keep the libraries' advice and bars from the output; where the user has set a variable, it stands."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else a stack of C++ where a process has gone
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("git_caption").setLevel(logging.WARNING)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


@contextmanager
def _stopped_as_by_ctrl_c(whole: bool) -> Iterator[None]:
    """Inside, AS_CTRL_C raise KeyboardInterrupt; a worker process that inherits this dies of them as usual.

    whole: the process ends with what is inside, so that one that comes after it changes nothing: Python takes a second
    to end, and what is done would count as not done.
    """
    if threading.current_thread() is not threading.main_thread():  # handlers can be set there only
        yield
        return
    main_process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == main_process:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    earlier = {number: signal.signal(number, stop) for number in AS_CTRL_C}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, signal.SIG_IGN if whole else handler)
