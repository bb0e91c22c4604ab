"""Addresses without a scheme that people paste, and what they mean."""

GIT_MEANT = {
    "git@github.com:org/repo.git": "ssh://git@github.com/org/repo.git",
    "git@e.com:/srv/a.git": "ssh://git@e.com/srv/a.git",
    "git@e.com:~anna/a.git": "ssh://git@e.com/~anna/a.git",
    "e.com:a": "ssh://e.com/a",
    "github.com/org/repo": "https://github.com/org/repo",
    "git.e.com:8443/org/repo": "https://git.e.com:8443/org/repo",
    "/data/repo.git": "file:///data/repo.git",
}
ARCHIVE_MEANT = {
    "e.com/a.tgz?x=1": "https://e.com/a.tgz?x=1",
    "/data/code.tar": "file:///data/code.tar",
}
