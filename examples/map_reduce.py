"""Map/reduce over queues: what word_count.py and word_frequency.py have in common.

The text goes in pieces to a queue whose policy is round robin, so each piece is mapped by one of the
mappers. A mapper counts the words of its piece and posts, for each reducer, those that are that
reducer's (by a hash of the word), so that no two reducers have the same word. A reducer adds up, and
when it has heard of every piece posts its sums. Mappers and reducers are processes of their own:

    python examples/map_reduce.py map --url http://localhost:8888 --job NAME --reducers 2
    python examples/map_reduce.py reduce --url http://localhost:8888 --job NAME --part 0

on any machine that reaches the broker; ``count_words`` starts them here. Pieces are handed out while
the queue is stopped until the mappers are there, which only makes the work even: messages wait for
those who come late. (A mapper that is killed loses the piece it had. Where that matters, take pieces
by a command and post them again when no answer comes.)
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote, urlencode
from urllib.request import urlopen
from zlib import crc32

from restmq.client import Queues

PIECE_CHARACTERS = 50_000
WORDS_IN_A_MESSAGE = 5_000
WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """What counts as a word."""
    return WORD.findall(text.lower())


class Job:
    """The names of a job's queues."""

    def __init__(self, name: str) -> None:
        self.pieces = f"{name}.pieces"
        self.results = f"{name}.results"
        self.ready = f"{name}.ready"
        self._name = name

    def part(self, number: int) -> str:
        return f"{self._name}.part-{number}"


def map_pieces(url: str, job: Job, reducers: int) -> None:
    """Be a mapper, until the queue of pieces is deleted."""
    with Queues(url) as queues, queues.stream(job.pieces) as pieces:
        queues.put(job.ready, "mapper")
        for piece in pieces:
            parts: list[dict[str, int]] = [{} for _ in range(reducers)]
            for word, count in Counter(words(piece.text)).items():
                parts[crc32(word.encode()) % reducers][word] = count
            for number, part in enumerate(parts):
                queues.put(job.part(number), json.dumps({"counts": part}))


def reduce_part(url: str, job: Job, number: int) -> None:
    """Be a reducer, until every piece was heard of; the number of pieces comes as a message, too."""
    sums: Counter[str] = Counter()
    heard, expected = 0, -1
    with Queues(url) as queues, queues.stream(job.part(number)) as messages:
        while heard != expected:
            found = json.loads(next(messages).text)
            if "pieces" in found:
                expected = found["pieces"]
            else:
                sums.update(found["counts"])
                heard += 1
        items = list(sums.items())
        for start in range(0, len(items), WORDS_IN_A_MESSAGE):
            some = dict(items[start : start + WORDS_IN_A_MESSAGE])
            queues.put(job.results, json.dumps({"counts": some}))
        queues.put(job.results, json.dumps({"done": number}))


def count_words(
    url: str, path: Path, name: str, mappers: int = 4, reducers: int = 2
) -> Counter[str]:
    """How often each word of a file occurs, by that many processes. ``name`` is the job's own."""
    job = Job(name)
    with Queues(url) as queues, ExitStack() as stack:
        post(url, "p", job.pieces, policy="roundrobin")
        post(url, "control", job.pieces, status="stop")
        workers = [start(url, name, "map", "--reducers", reducers) for _ in range(mappers)]
        workers += [start(url, name, "reduce", "--part", part) for part in range(reducers)]
        stack.callback(end, workers)
        with queues.stream(job.ready) as ready:
            for _ in range(mappers):
                next(ready)
        post(url, "control", job.pieces, status="start")
        count = 0
        with path.open(encoding="utf-8") as file:
            for piece in pieces_of(file):
                queues.put(job.pieces, piece)
                count += 1
        for part in range(reducers):
            queues.put(job.part(part), json.dumps({"pieces": count}))
        total = collect(queues, job, reducers)
        queues.purge(job.pieces)  # ends the mappers' streams
        for worker in workers:
            if worker.wait(30) != 0:
                raise SystemExit(f"{' '.join(worker.args)} failed")
    return total


def pieces_of(lines: Iterator[str]) -> Iterator[str]:
    """Whole lines, so many that a piece is about PIECE_CHARACTERS long."""
    piece, size = [], 0
    for line in lines:
        piece.append(line)
        size += len(line)
        if size >= PIECE_CHARACTERS:
            yield "".join(piece)
            piece, size = [], 0
    if piece:
        yield "".join(piece)


def collect(queues: Queues, job: Job, reducers: int) -> Counter[str]:
    """The sums of all reducers."""
    total: Counter[str] = Counter()
    done = 0
    with queues.stream(job.results) as results:
        while done < reducers:
            found = json.loads(next(results).text)
            total.update(found.get("counts", {}))
            done += "done" in found
    return total


def start(url: str, name: str, *arguments: object) -> subprocess.Popen[bytes]:
    role, *rest = map(str, arguments)
    return subprocess.Popen([sys.executable, __file__, role, "--url", url, "--job", name, *rest])


def end(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.kill()
        worker.wait()


def post(url: str, door: str, queue: str, **field: str) -> None:
    with urlopen(f"{url.rstrip('/')}/{door}/{quote(queue)}", urlencode(field).encode()) as reply:
        reply.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("map", "reduce"))
    parser.add_argument("--url", default="http://localhost:8888", help="the broker")
    parser.add_argument("--job", required=True, help="its queues' names begin so")
    parser.add_argument("--reducers", type=int, default=2, help="map: how many there are")
    parser.add_argument("--part", type=int, default=0, help="reduce: which one this is, from 0")
    options = parser.parse_args()
    if options.role == "map":
        map_pieces(options.url, Job(options.job), options.reducers)
    else:
        reduce_part(options.url, Job(options.job), options.part)


if __name__ == "__main__":
    main()
