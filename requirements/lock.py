"""Write requirements/pyXY.txt from pip's installation report on stdin (called by `make lock`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

major, minor = sys.version_info[:2]
packages = {item["metadata"]["name"]: item["metadata"]["version"] for item in json.load(sys.stdin)["install"]}
packages.pop("scaling", None)
lines = sorted((f"{name}=={version}" for name, version in packages.items()), key=str.lower)
header = (
    f"# Versions the tests have passed with on Python {major}.{minor} (pip constraints; made by make lock)."
)
lock = Path(__file__).with_name(f"py{major}{minor}.txt")
lock.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
print(f"{lock}: {len(lines)} packages")
