"""`python -m modnorm.data NAME` fetches a data set and says what is in it."""

from __future__ import annotations

import sys

from modnorm.console import sentence, show, tell
from modnorm.data.fetch import DataError, cache_folder
from modnorm.data.texts import NAMED, describe, load


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(
            "usage: python -m modnorm.data NAME|FILE|MODULE:FUNCTION, where NAME is one of "
            f"{', '.join(NAMED)}"
        )
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        found = load(arguments[0])
    except DataError as error:
        tell(f"error: {error}")
        return 1
    lines = describe(found), f"sha256 {found.sha256}", f"cache  {cache_folder()}"
    show("".join(map(sentence, lines)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
