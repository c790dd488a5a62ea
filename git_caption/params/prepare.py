"""Parameters of the jobs that make TSVs of data sets."""

from __future__ import annotations

from dataclasses import dataclass

from git_caption.params.rows import TsvWritingParams
from git_caption.params.schema import group, key

OUT = "image TSV to write; its captions and questions go beside it: NAME.img.tsv, NAME.caption.tsv, NAME.question.tsv"
SPLIT = "split of the data; None: train where there is one, else the only one"
IMAGE_DIR = "folder of the images, where they do not lie as the data set has them"
IMAGE_COLUMN = "column that names or holds images; None: found by name"
CAPTION_COLUMN = "column that holds captions; None: found by name"


@dataclass(frozen=True)
class ImagesParams:
    """Keys about the images of a data set."""

    images: bool | None = key(
        None, help="write them (True), or the texts alone (False); None: write them where any is there"
    )
    verify: bool = key(True, help="decode every image and leave out those that cannot be; False copies them unseen")


@dataclass(frozen=True, kw_only=True)
class PrepareParams(TsvWritingParams):
    """What all of them take."""

    preparing: ImagesParams = group(ImagesParams, "preparation")

    @property
    def written(self) -> str:
        """The image TSV."""
        return str(getattr(self, "out_tsv", ""))

    @property
    def tsvs_written(self) -> tuple[str, ...]:
        """The image TSV."""
        return (self.written,) if self.written else ()


def _out(example: str) -> str:
    found: str = key(help=OUT, kind="output_file", example=f"inference/example/{example}.img.tsv")
    return found


@dataclass(frozen=True, kw_only=True)
class Cc3mParams(PrepareParams):
    """Keys of `prepare_cc3m`."""

    data: str = key(
        help="folder of Train_GCC-training.tsv and train/00000000.jpg, ..., as download.py fills it",
        kind="source",
        aliases=("data_dir", "data_root"),
        example="data/conceptual",
    )
    out_tsv: str = _out("cc3m")
    split: str | None = key(None, help="train or validation; None: train, or the only one")


@dataclass(frozen=True, kw_only=True)
class CocoPrepareParams(PrepareParams):
    """Keys of `prepare_coco`."""

    data: str = key(
        help="folder of annotations/captions_train2014.json, ... or of dataset_coco.json; or such a file",
        kind="source",
        aliases=("data_dir",),
        example="data/coco",
    )
    out_tsv: str = _out("coco")
    split: str | None = key(
        None, help="train2014, val2017, test2014, ...; of dataset_coco.json train, val, test, train+restval (None)"
    )
    image_dir: str | None = key(None, help=IMAGE_DIR, kind="input_dir")


@dataclass(frozen=True, kw_only=True)
class CocoTestParams(PrepareParams):
    """Keys of `prepare_coco_test`."""

    data: str = key(
        "aux_data/raw_data",
        help="folder of dataset_coco.json and val2014/, or that file",
        kind="source",
        aliases=("data_dir",),
        example="data/coco",
    )
    out_tsv: str = key(
        "data/coco_caption/test.img.tsv", help=OUT, kind="output_file", example="inference/example/coco_test.img.tsv"
    )
    image_dir: str | None = key(None, help=IMAGE_DIR, kind="input_dir")


@dataclass(frozen=True, kw_only=True)
class VqaV2Params(PrepareParams):
    """Keys of `prepare_vqav2`."""

    data: str = key(
        help="folder of v2_OpenEnded_mscoco_val2014_questions.json, ..., annotations and images; or such a file",
        kind="source",
        aliases=("data_dir",),
        example="data/vqav2",
    )
    split: str = key(help="train2014, val2014, test2015 or test-dev2015", example="val2014")
    out_tsv: str | None = key(
        None,
        help="image TSV to write; its questions go beside it: NAME.caption.tsv, or of NAME.img.tsv NAME.question.tsv; "
        "None: data/TaxVQAv2/test.tsv of test2015, and so on",
        kind="output_file",
        example="inference/example/vqav2.tsv",
    )
    image_dir: str | None = key(None, help=IMAGE_DIR, kind="input_dir")

    @property
    def written(self) -> str:
        """The image TSV, called after the split where nothing else is said."""
        return f"data/TaxVQAv2/{self.split.rstrip('0123456789')}.tsv" if self.out_tsv is None else self.out_tsv


@dataclass(frozen=True, kw_only=True)
class NiceParams(PrepareParams):
    """Keys of `prepare_nice`."""

    data: str = key(
        help="nice-val-5k.csv, nice_gt.json or the folder of one; images in val/, test/ or images/ beside it",
        kind="source",
        aliases=("data_dir",),
        example="data/nice",
    )
    out_tsv: str = _out("nice")
    image_dir: str | None = key(None, help=IMAGE_DIR, kind="input_dir")


@dataclass(frozen=True, kw_only=True)
class InstagramParams(PrepareParams):
    """Keys of `prepare_instagram`."""

    data: str = key(
        help="a data set of Hugging Face, as save_to_disk wrote it, by its id or as Parquet files; or a table of "
        "images and captions",
        kind="data",
        aliases=("data_dir",),
        example="data/instagram_data",
    )
    out_tsv: str = _out("instagram")
    split: str | None = key(None, help=SPLIT)
    image_column: str | None = key(None, help=IMAGE_COLUMN)
    caption_column: str | None = key(None, help=CAPTION_COLUMN)


@dataclass(frozen=True, kw_only=True)
class FolderParams(PrepareParams):
    """Keys of `prepare_folder`."""

    data: str = key(
        help="folder of images, also in folders in it; the caption of a.jpg may be in a.txt",
        kind="input_dir",
        aliases=("data_dir",),
        example="data/shapes",
    )
    out_tsv: str = _out("folder")


@dataclass(frozen=True, kw_only=True)
class JsonParams(PrepareParams):
    """Keys of `prepare_json`."""

    data: str = key(help='JSON list of {"text": ..., "image": ...}', kind="input_file", example="data/train.json")
    out_tsv: str = _out("json")
    split: str | None = key(None, help="where entries have a 'split': those of this one")
    image_column: str | None = key(None, help=IMAGE_COLUMN)
    caption_column: str | None = key(None, help=CAPTION_COLUMN)
    image_dir: str | None = key(None, help=IMAGE_DIR, kind="input_dir")


@dataclass(frozen=True, kw_only=True)
class Flickr8kParams(PrepareParams):
    """Keys of `prepare_flickr8k`."""

    data: str = key(
        help="folder of Flickr8k.token.txt and Flickr_8k.trainImages.txt, ...; images in Images/ or beside",
        kind="source",
        aliases=("data_dir",),
        example="data/flickr8k",
    )
    out_tsv: str = _out("flickr8k")
    split: str | None = key(None, help="train, dev or test; None: train, or all where there are no lists")
    image_dir: str | None = key(None, help=IMAGE_DIR, kind="input_dir")
