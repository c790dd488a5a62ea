"""Parameters of the jobs around the embedded example."""

from __future__ import annotations

from dataclasses import dataclass

from git_caption.params.decoding import DecodingParams
from git_caption.params.running import RunningParams
from git_caption.params.schema import group, key


@dataclass(frozen=True, kw_only=True)
class ShapesScoreParams:
    """Keys of `evaluate_on_shapes`."""

    model_path: str = key("data/shapes/model", help="the captioner to score", kind="model")
    data_dir: str = key("data/shapes", help="folder of test.img.tsv and its companions", kind="input_dir")
    out_dir: str = key("inference/shapes", help="folder to write captions, answers and scores into", kind="output_dir")
    decoding: DecodingParams = group(DecodingParams, "decoding")
    running: RunningParams = group(RunningParams, "running")


@dataclass(frozen=True, kw_only=True)
class ShapesDataParams:
    """Keys of `make_shapes`."""

    out_dir: str = key(help="folder to write the TSVs into", kind="output_dir", example="inference/example/shapes")
    train: int = key(20_000, minimum=1, help="scenes of the train split", example=100)
    test: int = key(500, minimum=1, help="scenes of the test split", example=20)
    max_objects: int = key(3, minimum=1, maximum=3, help="most objects of a scene")
    seed: int = key(0, minimum=0, help="seed of the scenes")
