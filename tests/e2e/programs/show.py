"""Prints one line that identifies the code in its folder. With `stay` it then runs until killed."""

import hashlib
import os
import sys
import time


def listing() -> str:
    """A digest of the current folder: all names, kinds, execute bits, links and bytes."""
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
