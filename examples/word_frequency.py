"""The most frequent words of a text, and their share of it, by map/reduce over queues.

    python examples/word_frequency.py [--url http://localhost:8888] [--top 20] FILE

Prints the share in per cent, the number and the word, the most frequent first. See map_reduce.py.
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
    parser.add_argument("--top", type=int, default=20, help="how many words to show")
    options = parser.parse_args()
    counts = count_words(options.url, options.file, f"word_frequency-{os.getpid()}")
    total = sum(counts.values())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    for word, count in ranked[: options.top]:
        print(f"{100 * count / total:6.2f} % {count:8} {word}")


if __name__ == "__main__":
    main()
