from __future__ import annotations

import pickle
import zipfile
from random import Random

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from git_caption.errors import WeightsError
from git_caption.model import torchscript
from git_caption.model.weights import load_exactly, read_tensors


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2).half()
        self.register_buffer("count", torch.tensor([7]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.count


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.table = nn.Parameter(torch.randn(4, 3)[:, 1:])  # a view: neither contiguous nor at its storage's start

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + self.table.sum()


class Payload:
    """Pickles as a call that makes a file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def assert_same(found, wanted):
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_a_torchscript_archive_gives_the_state_dict_of_its_module(tmp_path):
    module = Outer()
    torch.jit.script(module).save(str(tmp_path / "archive.pt"))

    assert torchscript.is_archive(tmp_path / "archive.pt")
    assert_same(read_tensors(tmp_path / "archive.pt"), module.state_dict())


def test_a_torchscript_archive_equals_the_state_dict_beside_it(shared_data):
    folder = shared_data / "legacy" / "openai_clip_vit_w64"

    archive = read_tensors(folder / "model_jit.pt", ("visual.",))

    assert len(archive) == 32
    assert_same(archive, read_tensors(folder / "model_state_dict.pt", ("visual.",)))


def test_an_archive_that_asks_for_code_is_refused_and_the_code_does_not_run(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/constants.pkl", pickle.dumps(()))
        archive.writestr("evil/data.pkl", pickle.dumps(Payload(tmp_path / "made")))

    with pytest.raises(
        WeightsError, match=r"evil\.pt: not a readable weight file: .* asks for .*open, which is not a tensor"
    ):
        read_tensors(tmp_path / "evil.pt")
    assert not (tmp_path / "made").exists()


def test_a_pickle_that_asks_for_code_is_refused_and_the_code_does_not_run(tmp_path):
    torch.save({"weight": torch.zeros(1), "evil": Payload(tmp_path / "made")}, tmp_path / "evil.pt")

    with pytest.raises(WeightsError, match=r"evil\.pt: not a readable weight file"):
        read_tensors(tmp_path / "evil.pt")
    assert not (tmp_path / "made").exists()


def test_names_of_training_scripts_are_cleaned(tmp_path):
    torch.save({"epoch": 3, "state_dict": {"module.a": torch.ones(2), "step": 5}}, tmp_path / "epoch_3.pt")

    assert_same(read_tensors(tmp_path / "epoch_3.pt"), {"a": torch.ones(2)})


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_only_wanted_names_are_read(tmp_path, suffix):
    tensors = {"visual.a": torch.ones(1), "text.b": torch.ones(2), "mark": torch.ones(3)}
    path = tmp_path / f"clip{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)

    assert set(read_tensors(path, ("visual.", "mark"))) == {"visual.a", "mark"}


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.bin", "cut.pt"])
def test_a_truncated_file_is_named(tmp_path, name):
    path = tmp_path / name
    tensors = {"a": torch.randn(100)}
    save_file(tensors, path) if name.endswith("safetensors") else torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[:200])

    with pytest.raises(WeightsError, match=rf"{name}: not a readable"):
        read_tensors(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_bytes_are_the_files_fault(legacy, tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"a": torch.ones(3), "b": torch.ones(3)}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    refused = 0
    for number in range(400):
        random = Random(number)
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[random.randrange(len(whole))] = random.randrange(256)
        path.write_bytes(damaged)
        try:
            read_tensors(path)  # damage to the numbers themselves cannot be seen
        except WeightsError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            refused += 1
    assert refused > 100
    path.write_bytes(b"\x80\x02.")  # a pickle that ends before it holds anything
    with pytest.raises(WeightsError, match=r"not a readable weight file: IndexError pop from empty list"):
        read_tensors(path)


def test_lack_of_memory_is_not_the_files_fault(tmp_path, monkeypatch):
    def read(*_, **__):
        raise MemoryError

    torch.save({"a": torch.ones(1)}, tmp_path / "model.pt")
    monkeypatch.setattr(torch, "load", read)
    with pytest.raises(MemoryError):
        read_tensors(tmp_path / "model.pt")


def test_something_else_than_a_state_dict_is_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pt")

    with pytest.raises(WeightsError, match=r"list\.pt: holds a list, expected a state dict"):
        read_tensors(tmp_path / "list.pt")


def test_loading_lists_every_fault_and_copies_nothing():
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    given = {"0.weight": torch.zeros(2, 2), "1.weight": torch.zeros(3, 2), "other": torch.zeros(1)}

    with pytest.raises(WeightsError) as caught:
        load_exactly(module, given, "model.pt")

    assert str(caught.value) == (
        "model.pt does not fit the model: 6 missing (0.bias, 1.bias, 2.weight, 2.bias, 3.weight, and 1 more); "
        "1 unexpected (other); 1 misshapen (1.weight is (3, 2), expected (2, 2))"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_loading_copies_or_assigns():
    given = {"weight": torch.ones(1, 2, dtype=torch.float16)}
    copied, assigned = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False, device="meta")

    load_exactly(copied, given, "model.pt")
    load_exactly(assigned, given, "model.pt", assign=True)

    assert (copied.weight.dtype, copied.weight.tolist()) == (torch.float32, [[1, 1]])
    assert (assigned.weight.dtype, assigned.weight.requires_grad) == (torch.float16, True)
