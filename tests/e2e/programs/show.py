"""Says what code it is a part of, in one line, and goes on for as long as it is let."""

import hashlib
import os
import sys
import time


def listing() -> str:
    """Names all that is in the current folder: names, kinds, execute bits, links and bytes."""
    found = hashlib.sha256()
    for folder, folders, files in os.walk(b"."):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                what = b"l" + os.readlink(path)
            elif os.path.isdir(path):
                what = b"d"
            else:
                with open(path, "rb") as file:
                    content = hashlib.sha256(file.read()).hexdigest().encode()
                what = (b"x" if os.access(path, os.X_OK) else b"f") + content
            found.update(b"%d %b %b " % (len(path), path, what))
    return found.hexdigest()


if __name__ == "__main__":
    print("shown", listing(), os.environ.get("TFRUN_CODE_DIGEST"), flush=True)
    while sys.argv[1:] == ["stay"]:
        time.sleep(1000)
