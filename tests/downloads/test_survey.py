from __future__ import annotations

import random
from pathlib import Path

from git_caption.downloads.list import open_list
from git_caption.downloads.survey import Shard, survey


def test_addresses_that_come_again_are_found_with_their_first_row(tmp_path: Path) -> None:
    chance = random.Random(0)
    urls = [f"http://a/{chance.randrange(3000)}" for _ in range(4000)]
    path = tmp_path / "a.txt"
    path.write_text("\n".join(urls))
    found = survey(open_list(path))
    first: dict[str, int] = {}
    expected = [(row, first[url]) for row, url in enumerate(urls) if first.setdefault(url, row) != row]
    assert found.rows == 4000
    assert list(zip(found.repeats.tolist(), found.first.tolist(), strict=True)) == expected
    assert all(
        found.again(row) == [again for again, earlier in expected if earlier == row]
        for row in sorted(first.values())[:50]
    )


def test_rows_without_an_address_are_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"url": ""}\n' * 3)
    assert survey(open_list(tmp_path / "a.jsonl")).repeats.tolist() == []


def test_the_digest_tells_lists_apart(tmp_path: Path) -> None:
    digests = set()
    for text in ("http://a/1\nhttp://a/2", "http://a/2\nhttp://a/1", "http://a/1"):
        (tmp_path / "a.txt").write_text(text)
        digests.add(survey(open_list(tmp_path / "a.txt")).digest)
    assert len(digests) == 3


def test_each_address_is_in_one_shard_and_shards_are_alike_in_size() -> None:
    urls = [f"http://host/{number}" for number in range(3000)]
    sizes = [sum(Shard(index, 3).holds(url) for url in urls) for index in range(3)]
    assert sum(sizes) == 3000
    assert max(sizes) - min(sizes) < 200
