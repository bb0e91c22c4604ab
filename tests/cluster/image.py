"""The images that pods of the box run: TensorFlow on Debian, and the pause image.

We use no registry: debootstrap installs Debian from the machine's mirror, pip installs TensorFlow
from PyPI. The images do not have the names of public ones, because their content differs.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import compiled
from tests.cluster.binaries import cache, digest, make_once
from tests.cluster.commands import run
from tests.cluster.progress import step

TENSORFLOW = "tensorflow-cpu==2.21.0"
DEBIAN = "bookworm"
PYTHON = "3.11"  # Debian bookworm's
PACKAGES = "python3,ca-certificates"
LIBRARIES = f"usr/local/lib/python{PYTHON}/dist-packages"
# Files that no pod reads: package lists, manuals, and the headers to compile against TensorFlow.
UNUSED = (
    "var/lib/apt/lists",
    "var/cache/apt",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    f"{LIBRARIES}/tensorflow/include",
)
STEPS = 4  # of `tensorflow`: Debian, TensorFlow, bytecode, archive
REVISION = "1"  # raise it when the steps below change what the image holds


@dataclass(frozen=True)
class Image:
    """The name of an image, and its docker-archive."""

    name: str
    archive: Path

    @property
    def again(self) -> str:
        """The image's second name in the box."""
        return f"{self.name}-again"


def pause() -> Image:
    """The image that holds each pod's namespaces."""
    program = compiled.pause()
    name = f"localhost/pause:{digest(program.read_bytes())[:8]}"

    def make(archive: Path) -> None:
        with tempfile.TemporaryDirectory(dir=archive.parent) as root:
            shutil.copy(program, Path(root) / "pause")
            pack(Path(root), archive, name, {"Entrypoint": ["/pause"]})

    return Image(name, make_once(archive_of(name), "", make))


def tensorflow() -> Image:
    """The image of TensorFlow, with `python` and `python3` as the public image has them."""
    name = tensorflow_name()

    def make(archive: Path) -> None:
        with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
            root = Path(folder) / "root"
            fill(root)
            settings = {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["/bin/bash"]}
            with step("packing the TensorFlow image"):
                pack(root, archive, name, settings)

    return Image(name, make_once(archive_of(name), "", make))


def is_made() -> bool:
    """Whether the TensorFlow image exists. If not, `tensorflow` makes it in STEPS steps."""
    return archive_of(tensorflow_name()).exists()


def tensorflow_name() -> str:
    """The name of the TensorFlow image, with a hash of its recipe."""
    recipe = digest(*(str(part).encode() for part in (TENSORFLOW, DEBIAN, PACKAGES, UNUSED)))
    recipe = digest(recipe.encode(), REVISION.encode())[:8]
    package, version = TENSORFLOW.split("==")
    return f"localhost/{package}:{version}-{recipe}"


def fill(root: Path) -> None:
    """Make the TensorFlow image's files."""
    with step(f"installing Debian {DEBIAN}"):
        # debootstrap mounts /proc. The mount namespace removes that mount at the end.
        debootstrap = ["unshare", "--mount", "debootstrap", "--variant=minbase"]
        debootstrap += [f"--include={PACKAGES}", DEBIAN]
        run([*debootstrap, root, *debian_mirror()], env=os.environ | apt_proxy())
    with step(f"installing {TENSORFLOW}"):
        pip = [sys.executable, "-m", "pip", "install", "--no-compile"]
        pip += ["--only-binary=:all:", f"--python-version={PYTHON}", TENSORFLOW]
        run([*pip, "--target", root / LIBRARIES])
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    for unused in UNUSED:
        shutil.rmtree(root / unused, ignore_errors=True)
    with step("compiling its bytecode"):
        # We compile now, because the user of the pods cannot write beside the modules. We ignore
        # errors, because some packages contain files for other Pythons, which do not compile.
        compile_all = ["python3", "-m", "compileall", "-q", "-j", "0", f"/{LIBRARIES}"]
        run(["chroot", root, "sh", "-c", " ".join(compile_all) + " >/dev/null || true"])


def pack(root: Path, archive: Path, name: str, settings: Mapping[str, object]) -> None:
    """Write a folder as a docker-archive of one layer."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        layer = Path(folder) / "layer.tar"
        run(["tar", "--numeric-owner", "--sort=name", "-C", root, "-cf", layer, "."])
        layer_digest = run(["sha256sum", layer]).split()[0]
        config = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
            "os": "linux",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        }
        manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
        (Path(folder) / "config.json").write_text(json.dumps(config))
        (Path(folder) / "manifest.json").write_text(json.dumps(manifest))
        run(["tar", "-C", folder, "-cf", archive, "manifest.json", "config.json", "layer.tar"])


def archive_of(name: str) -> Path:
    """Where an image's archive is kept."""
    return cache() / "images" / (name.removeprefix("localhost/").replace(":", "-") + ".tar")


def debian_mirror() -> list[str]:
    """The mirror that this machine's apt uses; else nothing, for debootstrap's default."""
    listed = run(["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)"])
    for line in listed.splitlines():
        release, component, address = line.split(" ", 2)
        if (release, component) == (DEBIAN, "main"):
            return [address]
    return []


def apt_proxy() -> dict[str, str]:
    """The proxy that this machine's apt uses, for debootstrap's downloads."""
    shell = run(["apt-config", "shell", "PROXY", "Acquire::http::Proxy"])
    proxy = shell.strip().removeprefix("PROXY=").strip("'")
    return {"http_proxy": proxy} if proxy and proxy != "DIRECT" else {}
