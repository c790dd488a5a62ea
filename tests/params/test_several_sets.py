"""Several data sets in one key: what is told for each of them."""

import pytest

from git_caption.params.schema import faults, parse
from git_caption.params.training.dataset import DatasetParams
from git_caption.training.main import parse_command


@pytest.fixture
def names(tmp_path):
    """Two data sets, the features of each, and one whose name has a comma."""
    for name in ("a.csv", "b.csv", "a.features", "b.features", "with, comma.csv"):
        (tmp_path / name).touch()
    return {name: str(tmp_path / name) for name in ("a.csv", "b.csv", "a.features", "b.features", "with, comma.csv")}


def test_each_data_set_has_its_own_features_and_split_or_the_one_of_all(names):
    both = f"{names['a.csv']},{names['b.csv']}"
    features = f"{names['a.features']}, {names['b.features']}"
    given = {"data": both, "features": features, "split": "train,", "image_column": "picture"}
    first, second = parse(DatasetParams, {**given, "data_weights": "2, 0.5"}, "test").sets
    assert (first.data, first.features, first.split) == (names["a.csv"], names["a.features"], "train")
    assert (second.data, second.features, second.split) == (names["b.csv"], names["b.features"], None)
    assert first.image_column == second.image_column == "picture" and first.sets == [first]
    assert len(parse(DatasetParams, {"data": names["with, comma.csv"]}, "test").sets) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": "{a.features}"}, "'features': 1 for 2 data sets; expected as many of each"),
        ({"split": "a,b,c"}, "'split': 3 for 2 data sets; expected one each"),
        ({"data_weights": [1, 2, 3]}, "'data_weights': 3 for 2 data sets"),
        ({"data_weights": [1, 0]}, "'data_weights': expected numbers above 0, found [1.0, 0.0]"),
        ({"data": "{a.csv},{b.csv}.pkl"}, "no such file or folder"),
    ],
)
def test_what_is_not_told_for_each_is_refused(changes, message, names):
    def filled(value):
        for name, path in names.items() if isinstance(value, str) else ():
            value = value.replace(f"{{{name}}}", path)
        return value

    given = {"data": f"{names['a.csv']},{names['b.csv']}", **{key: filled(value) for key, value in changes.items()}}
    (found,) = faults(DatasetParams, given, "test")
    assert message in found


def test_weights_are_a_flag_with_commas(names, tmp_path):
    data = f"{names['a.csv']},{names['b.csv']}"
    command = ["--data", data, "--data_weights", "0.7,0.3", "-lm", "gpt2", "--output_dir", str(tmp_path / "out")]
    assert parse_command(command).dataset.data_weights == (0.7, 0.3)
