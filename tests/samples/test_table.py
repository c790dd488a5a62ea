import json

import pytest

from git_caption.errors import DataError, UsageError
from git_caption.samples import table
from git_caption.samples.table import load_json, read_csv, read_json_list, read_jsonl
from tests.pictures import contents, fault, jpeg


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "a.jpg").write_bytes(jpeg(10))
    (tmp_path / "images" / "b.jpg").write_bytes(jpeg(20))
    return tmp_path


def csv_file(folder, text):
    (folder / "data.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / "data.csv"


@pytest.mark.parametrize("mark", [",", "\t", ";", "|"])
def test_a_csv_gives_each_image_with_all_its_captions(folder, mark):
    lines = ["image,caption,more", 'a.jpg,"a dog, brown",1', "b.jpg,\u00e9t\u00e9,2", "a.jpg, again,3", ""]
    quoted = [line.replace(", ", "@").replace(",", mark).replace("@", ", ") for line in lines]
    quoted[3] = mark.join(["a.jpg", " again", "3"])
    data = read_csv(csv_file(folder, "\ufeff" + "\r\n".join(quoted)))
    assert contents(data) == [("a.jpg", ("a dog, brown", "again"), 10), ("b.jpg", ("\u00e9t\u00e9",), 20)]
    assert data.where(1).endswith("data.csv:3 (b.jpg)")
    assert (data.kind, data.missing, data.inputs) == ("CSV", 0, (folder / "data.csv",))


def test_rows_of_a_csv_that_are_broken_are_named_and_the_others_stay(folder):
    text = b"image,caption\na.jpg,a dog, brown\nb.jpg,fine\nc.jpg,none\n,empty\nb.jpg,caf\xe9\na.jpg\n"
    data = read_csv(csv_file(folder, text))
    causes = [fault(data, row) for row in range(len(data))]
    assert len(data) == 5
    assert "data.csv:2: found 3 columns, expected 2 as in the header: a text with the delimiter ','" in causes[0]
    assert data.texts(1).captions == ("fine",)
    assert "data.csv:4: no image" in causes[2]
    assert "data.csv:5: the image is '', expected the name of a file" in causes[3]
    [left_out] = data.texts(1).left_out
    assert left_out.endswith("data.csv:6 (b.jpg): the caption is not Unicode text at 'caf\\udce9', expected UTF-8")
    assert "data.csv:7: found 1 columns" in causes[4]


def test_a_field_past_the_bound_of_csv_costs_its_row(folder):
    data = read_csv(csv_file(folder, "image,caption\nx.jpg," + "x" * 140_000 + "\na.jpg,fine\n"))
    assert "data.csv:2: not CSV: field larger than field limit" in fault(data, 0)
    assert data.texts(1).captions == ("fine",)


def test_a_split_column_chooses_the_rows(folder):
    path = csv_file(folder, "image,caption,split\na.jpg,x,train\nb.jpg,y,test\n")
    assert contents(read_csv(path)) == [("a.jpg", ("x",), 10)]
    assert contents(read_csv(path, split="test")) == [("b.jpg", ("y",), 20)]
    with pytest.raises(UsageError, match=r"data\.csv: no split is called 'val', there are test, train"):
        read_csv(path, split="val")
    with pytest.raises(UsageError, match=r"CSV without a column 'split' has no splits"):
        read_csv(csv_file(folder, "image,caption\na.jpg,x\n"), split="test")


@pytest.mark.parametrize(("text", "cause"), [("", "there are none"), ("photo,words\na.jpg,x", "'photo', 'words'")])
def test_a_csv_without_known_columns_lists_those_there_are(folder, text, cause):
    with pytest.raises(UsageError, match=rf"data\.csv: none of the columns is called image or .*{cause}"):
        read_csv(csv_file(folder, text))


def test_columns_may_be_told(folder):
    data = read_csv(csv_file(folder, "photo,words\na.jpg,x"), None, "photo", "words")
    assert contents(data) == [("a.jpg", ("x",), 10)]


def test_a_csv_without_rows_is_refused(folder):
    with pytest.raises(DataError, match=r"data\.csv: no entry, expected images with captions"):
        read_csv(csv_file(folder, "image,caption\n"))


def test_jsonl_takes_a_caption_or_a_list_of_them(folder):
    lines = [
        json.dumps({"file_name": "a.jpg", "text": ["one", "two"]}),
        "",
        json.dumps({"file_name": str(folder / "images" / "b.jpg"), "text": "three"}),
        '{"file_name": "a.jpg", "text": 5}',
        "{broken",
        "[1]",
        '{"file_name": "a.jpg", "text": "\\ud83d"}',
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    data = read_jsonl(folder / "metadata.jsonl")
    assert data.kind == "JSONL"
    assert data.texts(1).captions == ("three",) and data.image(1) == jpeg(20)
    causes = [fault(data, row) for row in range(len(data))]
    assert data.texts(0).captions == ("one", "two")
    assert "metadata.jsonl:4: the caption is 5, expected a text or a list of texts" in causes[2]
    assert "metadata.jsonl:5: not JSON: Expecting property name" in causes[3]
    assert "metadata.jsonl:6: a JSON list, expected an object" in causes[4]
    [left_out] = data.texts(0).left_out
    assert "metadata.jsonl:7 (a.jpg): the caption is not Unicode text at '\\ud83d'" in left_out


def test_a_line_without_end_is_refused(folder, monkeypatch):
    monkeypatch.setattr(table, "LONGEST_LINE", 50)
    (folder / "metadata.jsonl").write_text('{"image": "a.jpg", "caption": "x"}\n' + "x" * 60)
    with pytest.raises(DataError, match=r"metadata\.jsonl:2: a line of more than 50 bytes"):
        read_jsonl(folder / "metadata.jsonl")


def test_a_json_list_of_text_and_image(folder):
    document = [{"text": "one", "image": "a.jpg"}, "odd", {"text": "two", "image": str(folder / "images/b.jpg")}]
    data = read_json_list(folder / "train.json", document)
    assert [fault(data, row).split("train.json")[-1] for row in range(3)] == [
        "",
        ", entry 2: a str, expected an object",
        "",
    ]
    assert data.texts(0).captions == ("one",) and data.image(2) == jpeg(20)
    with pytest.raises(DataError, match=r"train\.json: no JSON object in it"):
        read_json_list(folder / "train.json", [1, 2])


def test_json_that_is_broken_or_too_large_is_refused(folder, monkeypatch):
    (folder / "train.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"train\.json: not JSON"):
        load_json(folder / "train.json")
    monkeypatch.setattr(table, "LARGEST_JSON", 10)
    with pytest.raises(DataError, match=r"100000 bytes of JSON, read as a whole up to 10: write it as JSONL"):
        load_json(folder / "train.json")


def test_the_captions_of_instagram_are_read(shared_data):
    path = shared_data / "instagram" / "captions.json"
    document = json.loads(path.read_text())
    data = read_json_list(path, document)
    train = [entry for entry in document if entry["split"] == "train"]
    assert (len(data), data.kind) == (100, "JSON list, split train")
    texts = [data.texts(row) for row in range(100)]
    assert [(row.key, row.captions) for row in texts] == [(e["image_path"], (e["caption"],)) for e in train]
    assert "no image" in fault(data, 0)


def test_the_list_of_the_blip_tool_is_read_with_its_images(shared_data):
    path = shared_data / "legacy" / "sylee_blip" / "train.json"
    document = load_json(path)
    data = read_json_list(path, document)
    assert [data.texts(row).captions[0] for row in range(len(data))] == [entry["text"] for entry in document]
    assert data.image(0) == (path.parent / document[0]["image"]).read_bytes()
