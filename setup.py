"""Which files become packages; all else about the project is in pyproject.toml.

``twisted.plugins`` is a folder of Twisted's own package that anybody may add to. It goes into
the wheel as it is, with no ``__init__.py`` above it: one of ours would hide Twisted itself.

``package_dir`` says what is so anyway, and makes an editable install a plain path to this
folder. Without it setuptools installs an import hook, and Twisted, which looks for plug-ins in
the folders of ``sys.path``, finds none of ours.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["restmq", "restmq.*"]), "twisted.plugins"],
    package_dir={"": "."},
)
