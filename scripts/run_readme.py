"""Execute the examples of a Markdown file, in order, in one empty folder.

Fenced blocks marked `bash` or `python` run; a block whose preceding line is an HTML comment that starts with
`<!-- not run` is skipped, with its reason printed. Every block runs in the same temporary folder, so a later one can
use the files of an earlier one, as a reader would. The first that fails ends the run with its line in the file.

    python scripts/run_readme.py [README.md ...]
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(
    r"(?:^<!-- not run:? ?(?P<reason>[^\n]*?) ?-->\n+)?^```(?P<language>bash|python)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
SECONDS = 600


@dataclass(frozen=True)
class Block:
    """One fenced example: its language, its code, the line it starts at, and why it is skipped, if it is."""

    language: str
    code: str
    line: int
    skipped: str | None


def blocks(text: str) -> list[Block]:
    """The `bash` and `python` blocks of a Markdown text, in order."""
    return [
        Block(
            language=match["language"],
            code=match["code"],
            line=text.count("\n", 0, match.start("code")),
            skipped=match["reason"],
        )
        for match in FENCE.finditer(text)
    ]


def run(block: Block, folder: Path) -> int:
    """Run one block in a folder, in a process of its own, and return its exit status."""
    command = [sys.executable, "-"] if block.language == "python" else ["bash", "-euo", "pipefail", "-s"]
    # The `prudent` of this environment, whether or not it is activated; models come from the folder alone.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {"HF_HUB_OFFLINE": "1", **os.environ, "PATH": path}
    return subprocess.run(
        command, input=block.code, text=True, cwd=folder, env=environment, timeout=SECONDS, check=False
    ).returncode


def main(files: list[str]) -> int:
    """Run every block of every file; 1 at the first that fails."""
    for file in files or [str(ROOT / "README.md")]:
        with tempfile.TemporaryDirectory(prefix="readme-") as folder:
            for block in blocks(Path(file).read_text(encoding="utf-8")):
                place = f"{Path(file).name}:{block.line}"
                if block.skipped is not None:
                    print(f"{place}: skipped: {block.skipped}", flush=True)
                    continue
                start = time.perf_counter()
                status = run(block, Path(folder))
                if status:
                    print(f"{place}: failed with status {status}:\n{block.code}", file=sys.stderr)
                    return 1
                print(f"{place}: {block.language} ran in {time.perf_counter() - start:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
