"""The base captioner's captions of the pictures of a run: made before it, once, and kept for the next run.

They lie in a TSV named by a digest of all that can change them; a run that was stopped goes on with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from git_caption import processes
from git_caption.captioner import checkpoint, checkpoint_folder
from git_caption.captioner.base import model_of, source_of
from git_caption.captioner.captioner import BATCH_SIZE, Captioner
from git_caption.captioner.feature_origin import feature_origins
from git_caption.captioner.loading import captioner_folder, dtype_of
from git_caption.errors import UsageError
from git_caption.params.infer import ModelParams
from git_caption.params.model import BaseCaptionerConfig, CaptionerConfig
from git_caption.params.training.prompting import TEMPLATE
from git_caption.params.training.run import TrainingParams
from git_caption.pipeline.captioning import Captioning
from git_caption.pipeline.run import run
from git_caption.pipeline.workers import RowSource
from git_caption.samples.clipcap_pickle import ClipCapPickle
from git_caption.samples.feature_rows import EncodedSamples
from git_caption.samples.features import FeatureCache
from git_caption.samples.inputs import identity
from git_caption.samples.joint_features import JointFeatures
from git_caption.samples.prompted import Prompted, Uncaptioned
from git_caption.samples.sample import FeatureSample, ImageSample
from git_caption.samples.training_data import TrainingSamples
from git_caption.training.opened import Opened, OpenedSet


@dataclass(frozen=True, eq=False)
class Making:
    """Captions of a data set that there are to be.

    chosen: which rows of the files they come from are meant.
    settings: all else that can change them, but these files.
    """

    rows: Uncaptioned
    chosen: dict[str, str | None]
    settings: dict[str, Any]
    folder: Path

    @property
    def out(self) -> Path:
        """The TSV of them, named by their digest."""
        told = {**self.settings, **self.chosen, "inputs": [identity(path) for path in self.rows.inputs]}
        return self.folder / f"{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]}.tsv"


def base_of(params: TrainingParams) -> BaseCaptionerConfig:
    """The base captioner of a run, as the checkpoint it leaves is to refer to it.

    Raises:
        UsageError: it has itself a base captioner.
        WeightsError: it is not there.
    """
    told, initial = params.prompting, params.parts.initial
    earlier = None if initial is None else _base_in(initial)
    if told.base_captioner is not None:
        chosen = _referred_to(ModelParams(model_path=told.base_captioner))
        if _base_in(ModelParams(model_path=told.base_captioner)) is not None:
            raise UsageError(
                f"'base_captioner': {told.base_captioner} has a base captioner itself; name one that captions by itself"
            )
    elif initial is not None and earlier is not None:
        stored = None if earlier.source else captioner_folder(initial.path)
        chosen = replace(_referred_to(model_of(earlier, stored)), decoding=earlier.decoding)
    else:
        assert initial is not None, "checked with the parameters"
        chosen = _referred_to(initial)
    return replace(
        chosen,
        template=told.base_template or (earlier.template if earlier else TEMPLATE),
        decoding=told.base_decoding or chosen.decoding,
    )


def require_none(params: TrainingParams) -> None:
    """Refuse to go on from captions that follow those of a base captioner where none is asked for its own.

    Raises:
        UsageError: that is what `init_from` writes.
    """
    initial = params.parts.initial
    if initial is not None and _base_in(initial) is not None:
        raise UsageError(
            f"'objective': {params.parts.objective} trains captions that follow no others, and those of "
            f"{initial.path} follow a base captioner's; go on from a checkpoint without one"
        )


def prompted(
    opened: Opened,
    validated: Opened | None,
    base: BaseCaptionerConfig,
    params: TrainingParams,
    accelerator: Accelerator,
    say: Callable[[str], None],
) -> tuple[Opened, Opened | None]:
    """The data that is trained on, and that it is validated on, with the prompts that their captions follow.

    What captions are not there yet all processes of a run make together.

    Raises:
        UsageError: features without pictures that are not those of the base captioner.
        Stopped: by a signal; what is done is kept.
    """
    model = model_of(base)
    precision: Any = str(dtype_of(params.computing.precision, accelerator.device)).removeprefix("torch.")
    device = accelerator.device
    captioner = Captioner.load(model.path, **model.told, device=str(device), dtype=precision, prompted=False)
    decoding = captioner.decoding(replace(base.decoding, num_captions=1, with_scores=False), "caption")
    settings = {
        "captioner": captioner.fingerprint,
        "decoding": asdict(decoding),
        "dtype": precision,
        "device": device.type,
        "batch_size": BATCH_SIZE,
    }
    folder = Path(params.prompting.folder(params.saving.output_dir))
    groups = [group for group in (opened, validated) if group is not None]
    sets = [one for group in groups for one in group.sets]
    makings = [Making(_rows(one, captioner, model), one.told.chosen, settings, folder) for one in sets]
    there = [making.out.exists() for making in makings]
    accelerator.wait_for_everyone()  # so that each process has looked before any makes them
    for making, found in zip(makings, there, strict=True):
        if found:
            say(f"base captions of an earlier run are used again: {making.out}")
    missing = {making.out: making for making, found in zip(makings, there, strict=True) if not found}
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        captioning = Captioning(captioner, decoding, BATCH_SIZE, answers=False)
        with processes.together():
            for out, making in missing.items():
                say(f"{model.path} captions {len(making.rows)} pictures, into {out}")
                rows: RowSource[ImageSample | FeatureSample] = making.rows
                workers = 0 if isinstance(making.rows.samples, EncodedSamples) else params.computing.num_workers
                run(rows, captioning, out, settings, num_workers=workers)
    accelerator.wait_for_everyone()
    told = (
        replace(one, data=Prompted(one.data, making.out, base.template))
        for one, making in zip(sets, makings, strict=True)
    )
    data = [Opened(tuple(islice(told, len(group.sets)))) for group in groups]
    return data[0], data[1] if validated is not None else None


def _referred_to(model: ModelParams) -> BaseCaptionerConfig:
    return BaseCaptionerConfig(
        template=TEMPLATE,
        source=source_of(model.path),
        image_encoder_type=model.image_encoder_type,
        language_model=model.language_model,
    )


def _base_in(model: ModelParams) -> BaseCaptionerConfig | None:
    """The base captioner that a checkpoint tells of."""
    if Path(model.path).expanduser().is_file():
        return None
    folder = captioner_folder(model.path)
    own = checkpoint_folder.is_checkpoint(folder) and not checkpoint_folder.is_tuned(folder)
    return checkpoint.load_config(folder).base if own else None  # a pretrained captioner has none


def _rows(opened: OpenedSet, captioner: Captioner, model: ModelParams) -> Uncaptioned:
    """What the base captioner is shown: stored features where they are its own, else the pictures.

    Raises:
        UsageError: the features are another's, and there are no pictures.
    """
    features = opened.features
    if features is None:
        return Uncaptioned(TrainingSamples(opened.data, captioner.reader))
    if isinstance(features, ClipCapPickle):
        _require_width(features, captioner, model)
    elif not _are_its_own(features, captioner, model):
        return Uncaptioned(TrainingSamples(opened.data, captioner.reader))
    return Uncaptioned(EncodedSamples(opened.data, features))


def _are_its_own(features: FeatureCache | JointFeatures, captioner: Captioner, model: ModelParams) -> bool:
    if not isinstance(captioner.config, CaptionerConfig):
        return False
    try:
        features.check_origins(feature_origins(captioner.config, model), model.path)
    except UsageError:
        return False
    return True


def _require_width(features: ClipCapPickle, captioner: Captioner, model: ModelParams) -> None:
    config = captioner.config
    pooled = isinstance(config, CaptionerConfig) and config.image_encoder.output == "pooled"
    if not pooled or captioner.own_parts()[1].image_encoder.width != features.width:
        raise UsageError(
            f"{features.path}: holds pooled features of width {features.width} and no pictures, and the base captioner "
            f"{model.path} takes others: name another 'base_captioner'"
        )
