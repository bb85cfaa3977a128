#!/bin/sh
# Builds the wheel and runs the suite's everyday part against it, from an empty directory, with the wheel's own copy.
set -eu
tests=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$BIN/python" -m build --wheel --outdir "$work/dist" "$tests/.." >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$BIN/python" -m pip install --quiet --no-deps --target "$work/site" "$work"/dist/*.whl
mkdir "$work/empty"
cd "$work/empty"
PYTHONPATH="$work/site" SI_HUB_TEST_SITE="$work/site" "$BIN/python" -m pytest -q -n 2 -p no:cacheprovider \
    --rootdir "$tests/.." -c "$tests/../pyproject.toml" "$tests/test_package.py" "$tests/format" "$tests/golden" "$tests/test_cli.py" "$tests/test_broken_inputs.py" "$tests/pipelines/test_loading.py"
