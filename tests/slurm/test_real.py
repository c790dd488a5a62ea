"""The batch scripts on a real Slurm of two nodes, where the tools to start one are beside the repository.

Jobs are stopped in every way that clusters stop them, and leave the bytes of jobs that were not.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT.parent / "shared" / "tools"
SECONDS = 400.0  # for anything to come about on a busy machine
SMALL = ["--gpus-per-node=0", "--mem=1G", "--cpus-per-task=1"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (TOOLS / "slurm-up").exists(), reason=f"no {TOOLS}/slurm-up"),
    pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="slurm-up needs root"),
]


class Cluster:
    """Slurm's commands, in a folder as a clone looks."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment

    def run(self, *command: str, **variables: str) -> str:
        environment = {**self.environment, **variables}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def sbatch(self, *arguments: str, **variables: str) -> str:
        return self.run("sbatch", "--parsable", *SMALL, *arguments, **variables).strip()

    def shown(self, job: str) -> dict[str, str]:
        return dict(field.partition("=")[::2] for field in self.run("scontrol", "show", "job", job).split())

    def state(self, job: str) -> str:
        return self.shown(job)["JobState"]

    def log(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def until(self, condition: Callable[[], object], what: str) -> None:
        latest = time.monotonic() + SECONDS
        while not condition():
            logs = "".join(path.read_text() for path in self.folder.glob("*.log"))
            assert time.monotonic() < latest, f"no {what}\n{self.run('squeue', '-t', 'all')}\n{logs}"
            time.sleep(0.2)

    def ended(self, job: str) -> str:
        """The state that a job ends in."""
        last = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "PREEMPTED")
        self.until(lambda: self.state(job) in last, f"end of job {job}")
        return self.state(job)

    def outranked(self, job: str) -> None:
        """Both nodes are given to a job of higher rank for a moment, which preempts `job`."""
        self.run("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
        self.until(lambda: int(self.shown(job)["Restarts"]) > 0, "preemption")


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    folder = tempfile.mkdtemp(prefix="git_caption_slurm_")
    os.chmod(folder, 0o755)  # munged wants a socket that all can reach
    place = {"SLURM_TEST_DIR": folder, "SLURM_TEST_PORT": "27817"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    kept |= {**place, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    started = subprocess.run([TOOLS / "slurm-up"], env=kept, capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    kept["SLURM_CONF"] = started.stdout.strip()
    yield kept
    subprocess.run([TOOLS / "slurm-down"], env=kept, check=True)
    shutil.rmtree(folder)


@pytest.fixture
def cluster(environment: dict[str, str], tmp_path: Path) -> Cluster:
    for name in ("inference.py", "train.py", "git_caption", "data", "slurm"):
        (tmp_path / name).symlink_to(ROOT / name)
    subprocess.run([TOOLS / "slurm-up"], env=environment, capture_output=True, check=True)  # a slurmd may be dead
    return Cluster(tmp_path, environment)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Eight chunks of images."""
    path = tmp_path_factory.mktemp("images") / "images.tsv"
    rows = (ROOT / "data/shapes/test.img.tsv").read_bytes().splitlines(keepends=True)[:256]
    path.write_bytes(b"".join(rows * 8))
    return path


def captioning(images: Path, out: Path) -> str:
    job = {"type": "test_git_inference_single_tsv", "model_path": "data/shapes/model", "image_tsv": str(images)}
    return json.dumps({**job, "out_tsv": str(out), "num_workers": 0, "num_beams": 1})


@pytest.fixture(scope="module")
def captions(images: Path, tmp_path_factory) -> bytes:
    """Of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "captions.tsv"
    command = [sys.executable, "inference.py", "-p", captioning(images, out)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    return out.read_bytes()


TRAINING = [
    *("--init_from", "data/shapes/model", "--image_tsv", "data/shapes/test.img.tsv", "--epochs", "2", "--bs", "8"),
    *("--caption_tsv", "data/shapes/test.caption.tsv", "--tune", "mapper", "--num_workers", "0", "--save_every", "5"),
    *("--log_every", "5", "--lr", "1e-4"),
]


def trained(folder: Path) -> tuple[bytes, str]:
    """The weights, and the journal without rates and seconds."""
    lines = (folder / "journal.csv").read_text().splitlines()
    return (folder / "model.safetensors").read_bytes(), [line.split(",")[:4] for line in lines]


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> tuple[bytes, str]:
    """What a training of two processes leaves that nothing disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "model"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    command += [*TRAINING, "--output_dir", str(out)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    return trained(out)


def test_inference_that_is_preempted_goes_on_and_ends_with_the_same_bytes(cluster, images, captions) -> None:
    out = cluster.folder / "captions.tsv"
    job = cluster.sbatch("--nodes=2", "slurm/infer.sbatch", "-p", captioning(images, out))
    cluster.until(lambda: list(cluster.folder.glob("captions.tsv.parts/*.tsv")), "part")
    cluster.outranked(job)
    assert cluster.ended(job) == "COMPLETED"
    assert out.read_bytes() == captions
    log = cluster.log(f"infer-{job}.log")
    assert "error: stopped by SIGTERM; " in log and "queued again" in log
    assert "of 8 chunks from an earlier run" in log


def test_training_that_is_preempted_goes_on_and_ends_with_the_same_weights(cluster, training) -> None:
    out = cluster.folder / "model"
    job = cluster.sbatch("--nodes=2", "slurm/train.sbatch", *TRAINING, "--output_dir", str(out))
    cluster.until(lambda: list(out.glob("last/*")), "save")
    cluster.outranked(job)
    assert cluster.ended(job) == "COMPLETED"
    assert trained(out) == training
    assert "going on after step" in cluster.log(f"train-{job}.log")


def test_training_that_runs_out_of_time_is_warned_saves_and_goes_on(cluster) -> None:
    out = cluster.folder / "model"
    soon = "--time=2"  # and --signal=B:USR1@60 of the script: in the first minute, as Slurm may be a minute early
    job = cluster.sbatch(
        soon, "slurm/train.sbatch", *TRAINING, "--epochs", "100", "--output_dir", str(out), PROCESSES="2"
    )
    cluster.until(lambda: int(cluster.shown(job)["Restarts"]) == 1, "second start")
    log = cluster.log(f"train-{job}.log")
    assert "the time is nearly up: stopping" in log and "queued again" in log
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    cluster.until(lambda: list(out.glob("last/*")), "save")
    cluster.run("scancel", "--batch", "--signal=USR1", job)
    cluster.until(lambda: int(cluster.shown(job)["Restarts"]) == 2, "third start")
    assert "error: stopped by SIGTERM after step" in cluster.log(f"train-{job}.log")
    cluster.until(lambda: "going on after step" in cluster.log(f"train-{job}.log"), "going on")
    cluster.run("scancel", job)
    assert cluster.ended(job) == "CANCELLED"  # and is not queued again


def test_a_node_that_dies_gives_its_job_to_another(cluster, images, captions) -> None:
    out = cluster.folder / "captions.tsv"
    cluster.run("scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=kept for later")
    job = cluster.sbatch("slurm/infer.sbatch", "-p", captioning(images, out))
    cluster.until(lambda: list(cluster.folder.glob("captions.tsv.parts/*.tsv")), "part")
    die(cluster, "n1")
    cluster.run("scontrol", "update", "NodeName=n2", "State=RESUME")
    cluster.until(lambda: cluster.shown(job).get("NodeList") == "n2", "start on the other node")
    assert cluster.ended(job) == "COMPLETED"
    assert out.read_bytes() == captions
    assert "of 8 chunks from an earlier run" in cluster.log(f"infer-{job}.log")


def die(cluster: Cluster, node: str) -> None:
    """As a node that loses power: its slurmd, and all that it started, are gone at once."""
    children: dict[str, list[str]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = status.parent.name, status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(fields[1], []).append(name)
    pid = (Path(cluster.environment["SLURM_TEST_DIR"]) / "pids" / f"slurmd-{node}").read_text().split()[0]
    steps = [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/comm")
        if held(path.parent, Path(cluster.environment["SLURM_TEST_DIR"]) / "log" / f"slurmd-{node}.log")
    ]
    doomed = [pid, *steps]
    for one in doomed:
        doomed += [child for child in children.get(one, ()) if child not in doomed]
    for one in doomed:
        try:
            os.kill(int(one), signal.SIGKILL)
        except ProcessLookupError:
            continue


def held(process: Path, log: Path) -> bool:
    """Whether it is a slurmstepd that writes this log."""
    try:
        if (process / "comm").read_text() != "slurmstepd\n":
            return False
        return any(fd.resolve() == log.resolve() for fd in (process / "fd").iterdir())
    except OSError:
        return False


def test_a_task_of_an_array_that_fails_fails_alone_and_is_done_again_alone(cluster) -> None:
    (cluster.folder / "download.py").write_text(
        "import os, pathlib, sys\n"
        "shard = sys.argv[sys.argv.index('--shard') + 1]\n"
        "if shard == '1/3' and not pathlib.Path('repaired').exists():\n"
        "    sys.exit('error: the disk is full')\n"
        "pathlib.Path('part-' + shard.replace('/', '-of-')).touch()\n"
    )
    arguments = ["slurm/download.sbatch", "--data_root", "data"]
    job = cluster.sbatch("--array=0-2", *arguments, SHARDS="3")
    after = cluster.sbatch(f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes", "--wrap=true")
    states = [cluster.ended(f"{job}_{task}") for task in range(3)]
    assert states == ["COMPLETED", "FAILED", "COMPLETED"]
    assert cluster.ended(after) == "CANCELLED"
    assert "the disk is full" in cluster.log(f"download-{job}_1.log")
    (cluster.folder / "repaired").touch()
    again = cluster.sbatch("--array=1", *arguments, SHARDS="3")
    assert cluster.ended(f"{again}_1") == "COMPLETED"
    assert sorted(path.name for path in cluster.folder.glob("part-*")) == [f"part-{n}-of-3" for n in range(3)]


def test_a_task_of_an_array_that_is_warned_is_queued_again_alone(cluster) -> None:
    (cluster.folder / "download.py").write_text(
        "import pathlib, signal, sys, time\n"
        "started = pathlib.Path('started-' + sys.argv[sys.argv.index('--shard') + 1].replace('/', '-of-'))\n"
        "again = started.exists()\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "started.touch()\n"
        "while not again and not pathlib.Path('all is fetched').exists():\n"
        "    time.sleep(0.1)\n"
    )
    job = cluster.sbatch("--array=0-2", "slurm/download.sbatch", SHARDS="3")
    tasks = [f"{job}_{task}" for task in range(3)]
    cluster.until(lambda: len(list(cluster.folder.glob("started-*"))) == 3, "start of all tasks")
    [warned] = [task for task in tasks if cluster.shown(task)["JobId"] == job]  # whose number is that of the array
    cluster.run("scancel", "--batch", "--signal=USR1", warned)
    cluster.until(lambda: cluster.shown(warned)["Restarts"] == "1", "second start")
    (cluster.folder / "all is fetched").touch()
    assert [cluster.ended(task) for task in tasks] == ["COMPLETED"] * 3
    assert [cluster.shown(task)["Restarts"] for task in tasks] == [str(int(task == warned)) for task in tasks]


def test_a_whole_run_is_submitted_as_jobs_that_follow_one_another(cluster) -> None:
    stages = cluster.folder / "stages"
    stages.mkdir()
    for name, stage in {
        "prepare": {"type": "make_shapes", "out_dir": "made", "train": 40, "test": 20},
        "train": {
            "output_dir": "model",
            "init_from": "data/shapes/model",
            "image_tsv": "made/train.img.tsv",
            "caption_tsv": "made/train.caption.tsv",
            "epochs": 1,
            "bs": 8,
            "num_workers": 0,
        },
        "infer": {
            "type": "test_git_inference_single_tsv",
            "model_path": "model",
            "image_tsv": "made/test.img.tsv",
            "out_tsv": "captions.tsv",
            "num_workers": 0,
        },
        "evaluate": {
            "type": "evaluate_on_coco_caption",
            "res_file": "captions.tsv",
            "label_file": "made/test.caption.tsv",
            "metrics": ["CIDEr"],
        },
    }.items():
        (stages / f"{name}.yaml").write_text(json.dumps(stage))
    (cluster.folder / "download.py").write_text("import sys\nprint(sys.argv)\n")
    (stages / "download.args").write_text("# CC3M\n--data_root data\n--format tsv\n")
    (stages / "resources.args").write_text("download --array=0-1\ntrain --nodes=2\n")
    said = cluster.run("slurm/pipeline.sh", str(stages), *SMALL, SHARDS="2")
    jobs = {line.split(":")[0]: line.split()[2].rstrip(",") for line in said.splitlines()[:5]}
    assert list(jobs) == ["download", "prepare", "train", "infer", "evaluate"]
    assert cluster.ended(jobs["evaluate"]) == "COMPLETED"
    log = cluster.log(f"download-{jobs['download']}_1.log")
    assert "['download.py', '--shard', '1/2', '--data_root', 'data', '--format', 'tsv']" in log
    assert json.loads((cluster.folder / "captions.eval.json").read_text())["CIDEr"] > 0


def test_a_job_that_is_submitted_can_be_followed(cluster, images, captions) -> None:
    job = captioning(images, cluster.folder / "captions.tsv")
    command = [sys.executable, "inference.py", "-p"]
    said = cluster.run(*command, f"{{'type': 'submit', 'job': {job}, 'nodes': 2, 'cpus': 1, 'time': '4:00:00'}}")
    number = said.split("submitted job ")[1].split()[0]
    assert cluster.ended(number) == "COMPLETED"
    assert (cluster.folder / "captions.tsv").read_bytes() == captions
    log = said.split("--retry ")[1].splitlines()[0]
    assert "2048 rows, 2048 lines" in cluster.log(log)
