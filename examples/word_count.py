"""How often each word of a text occurs, by map/reduce over queues.

    python examples/word_count.py [--url http://localhost:8888] FILE

Prints a word a line and its number, in the order of the words. See map_reduce.py.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from map_reduce import count_words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="a text in UTF-8")
    parser.add_argument("--url", default="http://localhost:8888", help="the broker")
    parser.add_argument("--mappers", type=int, default=4)
    parser.add_argument("--reducers", type=int, default=2)
    options = parser.parse_args()
    name = f"word_count-{os.getpid()}"
    counts = count_words(options.url, options.file, name, options.mappers, options.reducers)
    for word, count in sorted(counts.items()):
        print(f"{word}\t{count}")


if __name__ == "__main__":
    main()
