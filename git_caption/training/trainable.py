"""What a run asks of a captioner that it trains, whatever that is made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from git_caption.captioner.captioner import Captioner
from git_caption.images.reader import ImageReader
from git_caption.model.git import GitNetwork
from git_caption.model.pretrained_network import PretrainedNetwork
from git_caption.params.model import PromptConfig, TransformConfig
from git_caption.params.training.run import TrainingParams
from git_caption.params.training.tuning import TuningParams
from git_caption.samples.clipcap_pickle import ClipCapPickle
from git_caption.samples.features import FeatureCache
from git_caption.samples.joint_features import JointFeatures
from git_caption.samples.training_data import TrainingData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Trainable(Protocol):
    """A captioner whose trained parts require gradients, and no others."""

    @property
    def network(self) -> GitNetwork | PretrainedNetwork:
        """Gives `token_logprobs`."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of prompts and targets."""

    @property
    def prompt(self) -> PromptConfig:
        """The templates of prompts."""

    @property
    def special_tokens(self) -> bool:
        """Whether prompts have the special tokens that the tokenizer puts around a text."""

    @property
    def room(self) -> int | None:
        """The positions of the language model for a prompt and what follows it; None where there is no bound."""

    @property
    def pixels(self) -> TransformConfig | None:
        """How pixels are normalised; None where no picture is looked at."""

    @property
    def reader(self) -> ImageReader | None:
        """From an image file to pixels; None where no picture is looked at."""

    @property
    def captioner(self) -> Captioner:
        """The captioner in its present state."""

    def check_features(
        self, features: FeatureCache | JointFeatures | ClipCapPickle, params: TrainingParams, data: TrainingData
    ) -> None:
        """Refuse features that are not what the image encoder gives for the data.

        Raises:
            UsageError: another image encoder, other preprocessing or other files; or a width that does not fit.
        """

    def save(self, params: TuningParams, out: Path) -> None:
        """Write what was trained as a checkpoint."""
