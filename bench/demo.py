"""Time and quality of `make demo`: python bench/demo.py [--write]"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import write_result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write bench/results/demo.json")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "flawmap.demo", folder, "--quiet"], check=True)
        minutes = (time.monotonic() - started) / 60
        metrics = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))
    values = {"minutes": round(minutes, 2), "metrics": metrics}
    print(f"{minutes:.1f} min, image AUROC {metrics['image_auroc']['value']:.3f}")
    if chosen.write:
        print(f"wrote {write_result('demo', 'demo', values)}")


if __name__ == "__main__":
    main()
