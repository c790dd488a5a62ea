"""Small data sets in the directory and file layout of the real ones, field for field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.pictures import jpeg

ANSWERS = ["net", "net", "net", "netting", "net", "net", "mesh", "net", "net", "net"]


def write(path: Path, content: bytes | str | dict[str, Any] | list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def _head(part: str) -> dict[str, Any]:
    return {
        "info": {
            "description": "COCO 2014 Dataset",
            "url": "http://cocodataset.org",
            "version": "1.0",
            "year": 2014,
            "contributor": "COCO Consortium",
            "date_created": "2017/09/01",
        },
        "licenses": [{"url": "http://creativecommons.org/licenses/by/2.0/", "id": 4, "name": "Attribution License"}],
    }


def coco(folder: Path, part: str, images: dict[int, list[str] | None], form: str = "COCO_{part}_{id:012}.jpg") -> None:
    """A split: image id → captions; None: an image that the annotations name and that is not there."""
    listed, annotations = [], []
    for image_id, captions in images.items():
        name = form.format(part=part, id=image_id)
        url = f"http://images.cocodataset.org/{part}/{name}"
        listed.append(
            {
                "license": 4,
                "file_name": name,
                "coco_url": url,
                "height": 8,
                "width": 10,
                "date_captured": "2013-11-14 17:02:52",
                "flickr_url": "http://farm7.staticflickr.com/6116/6255196340_da26cf2c9e_z.jpg",
                "id": image_id,
            }
        )
        for number, caption in enumerate(captions or ["not there"]):
            annotations.append({"image_id": image_id, "id": 100 * image_id + number, "caption": caption})
        if captions is not None:
            write(folder / part / name, jpeg(image_id % 200))
    # Annotations come in an order of their own.
    document = {**_head(part), "images": listed, "annotations": annotations[::-1]}
    write(folder / "annotations" / f"captions_{part}.json", document)


def coco_test(folder: Path, part: str, ids: list[int], form: str = "COCO_{part}_{id:012}.jpg") -> None:
    """A split without captions."""
    listed = []
    for image_id in ids:
        name = form.format(part=part, id=image_id)
        listed.append({"license": 4, "file_name": name, "height": 8, "width": 10, "id": image_id})
        write(folder / part / name, jpeg(image_id % 200))
    write(folder / "annotations" / f"image_info_{part}.json", {**_head(part), "images": listed})


def karpathy(folder: Path, images: list[tuple[str, int, str, list[str]]]) -> None:
    """`dataset_coco.json`: (split, cocoid, folder of the image, captions) of each."""
    listed, sentence = [], 0
    for number, (split, cocoid, part, captions) in enumerate(images):
        name = f"COCO_{part}_{cocoid:012}.jpg"
        ids = list(range(sentence, sentence + len(captions)))
        sentence += len(captions)
        listed.append(
            {
                "filepath": part,
                "sentids": ids,
                "filename": name,
                "imgid": number,
                "split": split,
                "sentences": [
                    {"tokens": text.lower().split(), "raw": text, "imgid": number, "sentid": sentid}
                    for text, sentid in zip(captions, ids, strict=True)
                ],
                "cocoid": cocoid,
            }
        )
        write(folder / part / name, jpeg(cocoid % 200))
    write(folder / "dataset_coco.json", {"images": listed, "dataset": "coco"})


def annotation(question_id: int, image_id: int) -> dict[str, Any]:
    """An annotation of VQAv2."""
    return {
        "question_type": "what is",
        "multiple_choice_answer": "net",
        "answers": [
            {"answer": answer, "answer_confidence": "maybe" if number == 3 else "yes", "answer_id": number}
            for number, answer in enumerate(ANSWERS, 1)
        ],
        "image_id": image_id,
        "answer_type": "other",
        "question_id": question_id,
    }


def vqav2(folder: Path, part: str, questions: list[tuple[int, int, str]], *, answered: bool) -> None:
    """A split: (question id, image id, question) of each."""
    license_ = {"url": "http://creativecommons.org/licenses/by/4.0/", "name": "Creative Commons Attribution 4.0"}
    head = {
        "info": {"description": "This is v2.0 of the VQA dataset.", "version": "2.0", "year": 2017},
        "license": license_,
        "data_subtype": part,
        "data_type": "mscoco",
    }
    listed = [{"image_id": image, "question": text, "question_id": number} for number, image, text in questions]
    write(
        folder / f"v2_OpenEnded_mscoco_{part}_questions.json",
        {**head, "task_type": "Open-Ended", "questions": listed},
    )
    if answered:
        annotations = [annotation(number, image) for number, image, _ in questions]
        write(folder / f"v2_mscoco_{part}_annotations.json", {**head, "annotations": annotations})
    images = part.replace("-dev", "")
    for image in {image for _, image, _ in questions}:
        write(folder / images / f"COCO_{images}_{image:012}.jpg", jpeg(image % 200))
