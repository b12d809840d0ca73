#!/bin/sh
# First stage of the image: the crawler and what it needs, compiled, in a directory of its own, with a list of it (SBOM).
# build.sh PREFIX [DIST], run from the root of the checkout; .ci/run runs it too, since no container engine runs there.
# DIST gets source archive and wheel, built once more: the wheel must be the same.
# Every package is the one whose hash stands in deploy/constraints.txt; the wheel is built by those of build-constraints.txt.
set -eu
prefix=$1
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1767225600}
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools/venv"
"$tools/venv/bin/pip" install --quiet --require-hashes -r deploy/build-constraints.txt
build() { "$tools/venv/bin/python" -m build --no-isolation --outdir "$1" . >/dev/null; }
build "$tools/dist"
if [ $# -gt 1 ]; then
  build "$2"
  cmp "$tools"/dist/*.whl "$2"/*.whl
fi
python3 -m venv "$prefix"
"$prefix/bin/pip" install --quiet --require-hashes -r deploy/constraints.txt
"$prefix/bin/pip" install --quiet --no-deps "$tools"/dist/*.whl
"$prefix/bin/pip" check
# root must not write bytecode at run time: the image is read-only there
"$prefix/bin/python" -m compileall -q "$prefix/lib" || true # a dependency may ship a file for another Python
"$prefix/bin/pip" uninstall --quiet --yes pip
"$tools/venv/bin/cyclonedx-py" environment --output-reproducible --output-format JSON --output-file "$prefix/sbom.json" "$prefix/bin/python"
"$prefix/bin/crawler" --version
