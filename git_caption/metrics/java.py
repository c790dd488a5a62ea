"""The metrics that are Java programs, run out of pycocoevalcap's jars: its tokenizer, METEOR and SPICE.

Every run has a time limit, a temporary folder of its own and UTF-8 in and out whatever the locale; nothing is written
where the jars lie.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

TOKENIZER_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
METEOR_JAR = "meteor/meteor-1.5.jar"
SPICE_JAR = "spice/spice-1.0.jar"
SPICE_NEWEST_JAVA = 11
PREFLIGHT_SECONDS = 60


class Unavailable(Exception):
    """A Java program cannot run, or did not end well; the message is the reason to show."""


def require(newest: int | None = None) -> str:
    """The path of `java`. Raises Unavailable where there is none, where it does not run, or is newer than `newest`."""
    path = shutil.which("java")
    if path is None:
        raise Unavailable("needs Java, and there is no 'java' on the PATH")
    version = _version(path)
    if version is None:
        raise Unavailable(f"needs Java, and {path} -version does not run")
    if newest is not None and version > newest:
        raise Unavailable(f"needs Java {newest} or older, and {path} is Java {version}")
    return path


@cache
def _version(java: str) -> int | None:
    try:
        done = subprocess.run([java, "-version"], capture_output=True, timeout=PREFLIGHT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(rb'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(found[1]) if done.returncode == 0 and found else None


def jar(name: str) -> Path:
    """Where pycocoevalcap has `name`. Raises Unavailable where the package or the file is missing."""
    package = find_spec("pycocoevalcap")
    folders = list(package.submodule_search_locations or ()) if package else []
    if not folders:
        raise Unavailable("needs pycocoevalcap: pip install 'git-caption[metrics]'")
    path = Path(folders[0]).resolve() / name
    if not path.is_file():
        raise Unavailable(f"needs {path}, which is not there: install pycocoevalcap anew")
    return path


def tokenize(captions: Sequence[str], timeout: float) -> list[str]:
    """The words of each caption as PTBTokenizer gives them, punctuation included, parted by spaces.

    Args:
        captions: texts without line breaks of any kind.
        timeout: seconds.

    Raises:
        Unavailable: it cannot run, ran too long, failed, or gave another number of lines.
    """
    program = ["-cp", str(jar(TOKENIZER_JAR)), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    with tempfile.TemporaryDirectory(prefix="git_caption_ptb_") as folder:
        source = Path(folder, "captions.txt")
        source.write_bytes("\n".join(captions).encode("utf-8"))
        lines = _run([*program, str(source)], folder, timeout).decode("utf-8").split("\n")
    if len(lines) != len(captions):
        raise Unavailable(f"the tokenizer gave {len(lines)} lines for {len(captions)} captions")
    return [line.rstrip(" \r") for line in lines]


def spice(candidates: Sequence[str], references: Sequence[Sequence[str]], timeout: float) -> list[dict[str, Any]]:
    """SPICE's scores of each caption: category to `{"pr": ..., "re": ..., "f": ...}`; "All" is the score proper.

    Raises:
        Unavailable: Java is too new, its models are not there, it ran too long or failed.
    """
    program = require_spice()
    with tempfile.TemporaryDirectory(prefix="git_caption_spice_") as folder:
        source, result = Path(folder, "in.json"), Path(folder, "out.json")
        entries = [
            {"image_id": number, "test": candidate, "refs": list(given)}
            for number, (candidate, given) in enumerate(zip(candidates, references, strict=True))
        ]
        source.write_text(json.dumps(entries), encoding="utf-8")
        options = ["-cache", str(Path(folder, "cache")), "-out", str(result), "-subset", "-silent"]
        _run(["-Xmx8G", "-jar", str(program), str(source), *options], folder, timeout)
        found = {entry["image_id"]: entry["scores"] for entry in json.loads(result.read_text(encoding="utf-8"))}
    return [found[number] for number in range(len(entries))]


def require_spice() -> Path:
    """SPICE's jar. Raises Unavailable where it, its models or a Java that is old enough are not there."""
    require(SPICE_NEWEST_JAVA)
    program = jar(SPICE_JAR)
    models = [program.parent / "lib" / f"stanford-corenlp-3.6.0{part}.jar" for part in ("", "-models")]
    if missing := [str(path) for path in models if not path.is_file()]:
        raise Unavailable(f"needs Stanford CoreNLP 3.6.0 beside its jar: {' and '.join(missing)} not found")
    return program


class Meteor:
    """METEOR 1.5 for English. The program starts at once, so that it loads while other work is done.

    Raises Unavailable where it cannot start.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        command = _command(["-Xmx2G", "-jar", str(jar(METEOR_JAR)), "-", "-", "-stdio", "-l", "en", "-norm"])
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        try:
            self._process = subprocess.Popen(
                command,
                cwd=tempfile.gettempdir(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,  # a file never fills up, as a pipe that nobody reads does
            )
        except OSError as error:
            self._errors.close()
            raise Unavailable(f"{command[0]} does not start: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was not written yet goes nowhere
                cast(IO[bytes], pipe).close()
        self._errors.close()

    def scores(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
        """METEOR over all captions, and of each.

        Args:
            candidates: one tokenized caption an image.
            references: its tokenized references.

        Raises:
            Unavailable: it ran too long or ended early.
        """
        expired = threading.Event()

        def stop() -> None:
            expired.set()
            self._process.kill()

        timer = threading.Timer(self._timeout, stop)
        timer.daemon = True
        timer.start()
        try:
            questions = [
                " ||| ".join(["SCORE", *(_field(text) for text in given), _field(candidate)])
                for candidate, given in zip(candidates, references, strict=True)
            ]
            statistics = self._ask(questions, len(questions))
            answers = self._ask([" ||| ".join(["EVAL", *statistics])], len(questions) + 1)
            values = [float(answer) for answer in answers]
        except (EOFError, ValueError) as error:
            if expired.is_set():
                raise Unavailable(f"METEOR was stopped after {self._timeout:g} s") from error
            self._process.kill()
            self._process.wait()
            self._errors.seek(0)
            raise Unavailable(f"METEOR failed: {_last_line(self._errors.read()) or error}") from error
        finally:
            timer.cancel()
        return values[-1], values[:-1]

    def _ask(self, lines: Iterable[str], answers: int) -> list[str]:
        """Sends lines while reading answers, so that neither side waits for the other. Raises EOFError at its end."""
        stdin, stdout = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)

        def send() -> None:
            with suppress(OSError):  # it ended: the reader sees that
                for line in lines:
                    stdin.write(line.encode("utf-8") + b"\n")
                stdin.flush()

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        found: list[str] = []
        for _ in range(answers):
            line = stdout.readline()
            if not line.endswith(b"\n"):
                raise EOFError(f"it ended after {len(found)} of {answers} answers")
            found.append(line.decode("utf-8").strip())
        sender.join()
        return found


def _field(text: str) -> str:
    """`text` without what parts the fields of METEOR's lines."""
    return text.replace("|||", "").replace("  ", " ")


def _command(arguments: Sequence[str]) -> list[str]:
    return [require(), "-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US", *arguments]


def _run(arguments: Sequence[str], folder: str, timeout: float) -> bytes:
    command = _command(arguments)
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"the Java program was stopped after {timeout:g} s") from error
    except OSError as error:
        raise Unavailable(f"{command[0]} does not start: {error.strerror}") from error
    if done.returncode != 0:
        raise Unavailable(f"the Java program ended with {done.returncode}: {_last_line(done.stderr)}")
    return done.stdout


def _last_line(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
