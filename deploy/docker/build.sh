#!/bin/sh
# First stage of the image: the crawler and what it needs, compiled, in a directory of its own.
# build.sh PREFIX, run from the root of the checkout; .ci/run runs it too, since no container engine runs there.
set -eu
prefix=$1
python3 -m venv "$prefix"
"$prefix/bin/pip" install --quiet --no-cache-dir --disable-pip-version-check .
# root must not write bytecode at run time: the image is read-only there
"$prefix/bin/python" -m compileall -q "$prefix/lib" || true # a dependency may ship a file for another Python
"$prefix/bin/pip" uninstall --quiet --yes pip
"$prefix/bin/crawler" --version
