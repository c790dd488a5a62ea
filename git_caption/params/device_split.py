"""A language model's blocks shared out over devices in order, as a text: `1:4,2:11,3`."""

from __future__ import annotations

from dataclasses import dataclass

EXPECTED = (
    "expected devices with the block that each ends before, the last one without, as '1:4,2:11,3': blocks 0 to 3 on "
    "GPU 1, 4 to 10 on GPU 2, the others on GPU 3"
)


@dataclass(frozen=True)
class DeviceSplit:
    """Devices in order, each with the number of the block that it ends before; the last one takes all the others.

    A device is the number of a GPU, `cpu` or `disk`. Embeddings and output layer are on the first one, the norm after
    the last block on the last one.
    """

    devices: tuple[str, ...]
    ends: tuple[int, ...]

    def device_of(self, block: int) -> str:
        """Where a block is, by its number from 0."""
        return next((device for device, end in zip(self.devices, self.ends, strict=False) if block < end), self.last)

    @property
    def first(self) -> str:
        """Where texts go in and logits come out."""
        return self.devices[0]

    @property
    def last(self) -> str:
        """Where the last blocks are."""
        return self.devices[-1]

    def __str__(self) -> str:
        parts = [f"{device}:{end}" for device, end in zip(self.devices, self.ends, strict=False)]
        return ",".join([*parts, self.last])


def read_split(text: str) -> DeviceSplit:
    """The split that a text tells. Raises ValueError, with what is expected."""
    *parts, last = text.replace(" ", "").split(",")
    devices, ends = [], []
    for part in parts:
        device, colon, end = part.rpartition(":")
        if not colon or not end.isdecimal():
            raise ValueError(EXPECTED)
        devices.append(device)
        ends.append(int(end))
    if not all(device.isdecimal() or device in ("cpu", "disk") for device in [*devices, last]):
        raise ValueError(EXPECTED)
    if ends != sorted(set(ends)):
        raise ValueError("expected each device to end before a later block than the one before it, or it gets none")
    return DeviceSplit((*devices, last), tuple(ends))


def old_split(devices: str, numbers: str) -> DeviceSplit:
    """The split of `--device 123 --pn 411` as Jhryu30/cvpr2023_challenge_clipcap reads the two.

    Each figure of `devices` is a GPU. Of two GPUs `numbers` is the block that the first one ends before; of three its
    first figure is, or the first two of four, and the rest is where the second ends: 411 is 4 and 11, 1224 12 and 24.

    Raises:
        ValueError: figures that do not say this, with what is expected.
    """
    if not devices.isdecimal() or not 1 <= len(devices) <= 3:
        raise ValueError(f"'device': expected one to three figures, each a GPU, as 123, found {devices!r}")
    if len(devices) == 1:
        return DeviceSplit((devices,), ())
    if not numbers.isdecimal() or len(numbers) > 4 or (len(devices) == 3 and len(numbers) < 2):
        raise ValueError(
            f"'pn': expected where the blocks of each GPU but the last end, as 411 for 4 and 11, found {numbers!r}"
        )
    if len(devices) == 2:
        return DeviceSplit(tuple(devices), (int(numbers),))
    begin = 1 if len(numbers) < 4 else 2
    return DeviceSplit(tuple(devices), (int(numbers[:begin]), int(numbers[begin:])))
