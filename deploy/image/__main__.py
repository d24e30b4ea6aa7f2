"""`python -m deploy.image`: builds the image and prints where the archive is."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cni.build import BuildError
from deploy.image.build import IMAGE, ImageError, build_image
from deploy.image.content import write_context
from deploy.image.debian import BaseError


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.image", description=f"Builds {IMAGE}.")
    parser.add_argument(
        "--base", default="", help="image with Python to begin from (default: made with mmdebstrap)"
    )
    parser.add_argument("--mirror", default="", help="Debian mirror for mmdebstrap")
    parser.add_argument(
        "--context",
        type=Path,
        help="build nothing; put the files into this folder, for another builder and the same Containerfile",
    )
    parser.add_argument("--fresh", action="store_true", help="make every layer anew")
    arguments = parser.parse_args()
    try:
        if arguments.context:
            write_context(arguments.context)
            return 0
        print(build_image(arguments.base, arguments.mirror, arguments.fresh))
    except (ImageError, BaseError, BuildError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
