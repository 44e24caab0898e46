"""`python -m lib.report FOLDER [README]`: print the results in a folder, and bring a README up to date."""

import sys
from pathlib import Path

from lib.report.retrieval import readme_results, update_readme


def main(folder: Path, readme: Path | None = None) -> None:
    """Print the results in `folder` and name their figures; bring `readme` up to date if one is given."""
    print(readme_results(folder))
    print("\nFigures:", *sorted(str(path) for path in folder.glob("*.png")), sep="\n  ")
    if readme:
        update_readme(folder, readme)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
