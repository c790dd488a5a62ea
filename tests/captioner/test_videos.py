"""Captioners whose checkpoint holds a temporal embedding."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from git_caption.captioner.captioner import Captioner
from git_caption.errors import DataError, WeightsError
from git_caption.model.temporal import TemporalEmbedding


@pytest.fixture
def video_captioner(make_captioner):
    """Builds a captioner with three temporal positions."""

    def make(output: str = "grid") -> Captioner:
        captioner = make_captioner(mapper="linearLn" if output == "grid" else "mlp", output=output)
        temporal = TemporalEmbedding(3, captioner.network.image_encoder.width).requires_grad_(False)
        temporal.weight.normal_()
        captioner.network.temporal = temporal
        captioner.config = replace(captioner.config, temporal_positions=3)
        return captioner

    return make


def test_frames_get_their_places_before_they_are_joined(video_captioner, pictures):
    captioner = video_captioner()
    pixels = captioner.pixels(pictures[:2])
    frames = captioner.encode(pixels).values
    expected = torch.cat(
        [frames[0] + captioner.network.temporal.weight[0], frames[1] + captioner.network.temporal.weight[1]]
    )

    torch.testing.assert_close(captioner.encode_frames(pixels).values[0], expected)


def test_pooled_frames_get_their_places_before_they_are_averaged(video_captioner, pictures):
    captioner = video_captioner("pooled")
    pixels = captioner.pixels(pictures)
    expected = (captioner.encode(pixels).values[:, 0] + captioner.network.temporal.weight).mean(0)

    torch.testing.assert_close(captioner.encode_frames(pixels).values[0, 0], expected)


def test_an_image_has_no_place_in_time_whatever_shares_its_batch(video_captioner, pictures):
    captioner = video_captioner()
    image = captioner.pixels(pictures[0])

    assert torch.equal(captioner.encode_frames(image).values, captioner.encode(image).values)
    videos = [pictures[0], pictures, pictures[:1], pictures[::-1]]
    assert captioner.caption(videos) == [captioner.caption([video])[0] for video in videos]


def test_the_embedding_is_saved_and_loaded(video_captioner, pictures, tmp_path):
    captioner = video_captioner()
    captioner.save(tmp_path)

    again = Captioner.load(tmp_path, device="cpu")

    assert torch.equal(load_file(tmp_path / "model.safetensors")["temporal.weight"], captioner.network.temporal.weight)
    assert json.loads((tmp_path / "config.json").read_text())["temporal_positions"] == 3
    assert torch.equal(again.network.temporal.weight, captioner.network.temporal.weight)
    assert again.caption([pictures]) == captioner.caption([pictures])


def test_an_embedding_of_another_length_does_not_fit(video_captioner, tmp_path):
    video_captioner().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "temporal_positions": 4}))
    with pytest.raises(WeightsError, match=r"1 misshapen \(temporal.weight is \(3, 64\), expected \(4, 64\)\)"):
        Captioner.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "temporal_positions": 0}))
    with pytest.raises(WeightsError, match=r"1 unexpected \(temporal.weight\)"):
        Captioner.load(tmp_path)


def test_a_video_with_more_frames_than_positions_is_refused(video_captioner, pictures):
    with pytest.raises(DataError, match=r"a video has 4 frames and the captioner has temporal positions for 3"):
        video_captioner().caption([[*pictures, pictures[0]]])


def test_without_an_embedding_frames_are_as_images(make_captioner, pictures):
    captioner = make_captioner(mapper="linearLn", output="grid")
    pixels = np.concatenate([captioner.pixels(pictures)] * 3)  # of any number

    assert torch.equal(captioner.encode_frames(pixels).values[0], captioner.encode(pixels).values.flatten(0, 1))
