from __future__ import annotations

import pytest

from git_caption.params.device_split import DeviceSplit, old_split, read_split


def devices(split: DeviceSplit, blocks: int) -> str:
    return "".join(split.device_of(block) for block in range(blocks))


@pytest.mark.parametrize(
    ("device", "pn", "wanted"),
    [
        ("123", "411", "111122222223"),  # the tool's default: blocks end at 4 and at 11
        ("012", "28", "001111112222"),
        ("123", "1224", "11111111111122222222222233333333"),
        ("12", "4", "111122222222"),
        ("12", "411", "111111111111"),  # two GPUs: one number, which no block reaches here
        ("3", "411", "333333333333"),
    ],
)
def test_old_figures_are_read_as_their_tool_read_them(device, pn, wanted):
    assert devices(old_split(device, pn), len(wanted)) == wanted


def test_a_text_says_the_same():
    assert str(old_split("123", "411")) == "1:4,2:11,3"
    assert read_split("1:4, 2:11, 3") == old_split("123", "411")
    assert devices(read_split("cpu:1,disk"), 3) == "cpudiskdisk"


@pytest.mark.parametrize("text", ["1:4,2:11", "cuda:1", "1:x,2", "", "1,2", "tpu:1,2"])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=r"expected devices with the block that each ends before"):
        read_split(text)


@pytest.mark.parametrize("text", ["1:11,2:4,3", "0:4,1:4,2"])
def test_a_device_without_blocks_is_told(text):
    with pytest.raises(ValueError, match="expected each device to end before a later block"):
        read_split(text)


@pytest.mark.parametrize(("device", "pn"), [("1234", "411"), ("123", "4"), ("123", "41111"), ("12", "a")])
def test_other_figures_are_refused(device, pn):
    with pytest.raises(ValueError, match=r"'(device|pn)': expected"):
        old_split(device, pn)
