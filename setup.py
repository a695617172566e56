"""What pyproject.toml cannot say: which folders at the top of a checkout go into the wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# folder of the package -> folder of the checkout, and what is taken of it; finegrid.storage.paths
# looks for both
INSIDE = {"conf": ("conf", "**/*.yaml"), "results": ("docs/results", "*/runs.parquet")}


class WithFolders(build_py):
    """Adds the folders to what is built; an editable install leaves them where they are."""

    def run(self) -> None:
        """Copy the package, then the folders."""
        super().run()
        for name, (folder, pattern) in ({} if self.editable_mode else INSIDE).items():
            inside = Path(self.build_lib, "finegrid", name)
            shutil.rmtree(inside, ignore_errors=True)  # of an earlier build
            for file in Path(folder).glob(pattern):
                copy = inside / file.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)


setup(cmdclass={"build_py": WithFolders})
