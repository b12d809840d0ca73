"""What the first stage of the image has: the files that .dockerignore lets through and the Dockerfile copies.

python tests/support/image.py DIR
"""

import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def is_sent(path: Path) -> bool:
    """Whether the engine gets to see it; the last pattern that matches it, or a folder that it is in, decides."""
    sent = True
    for pattern in (ROOT / ".dockerignore").read_text().split():
        if any(fnmatch(str(part), pattern.removeprefix("!")) for part in (path, *path.parents)):
            sent = pattern.startswith("!")
    return sent


def copies() -> list[tuple[Path, str]]:
    """(source, target) of each COPY from the checkout; a target that ends with / is a folder."""
    words = [line.split() for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")]
    return [(Path(source), target) for _, *sources, target in words if "--from" not in sources[0] for source in sources]


def fill(folder: Path) -> None:
    """Copy what the image is built from. AssertionError: an engine would not find it."""
    for source, target in copies():
        whole = ROOT / source
        files = [path for path in whole.rglob("*") if path.is_file()] if whole.is_dir() else [whole]
        sent = [path for path in files if is_sent(path.relative_to(ROOT))]
        assert sent, f"{source} is copied by the Dockerfile, but .dockerignore keeps it out"
        for path in sent:
            place = folder / (path.relative_to(ROOT) if whole.is_dir() or not target.endswith("/") else Path(target, path.name))
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)


if __name__ == "__main__":
    fill(Path(sys.argv[1]))
