# Sourced by train.sh, test.sh and benchmark.sh: finds the checkout and its Python, from whatever folder one calls.
# PYTHON chooses another interpreter.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
if ! command -v "$python" >/dev/null; then
    echo "error: $python is not there; run 'make .venv/.installed' in $root, or set PYTHON" >&2
    exit 2
fi
exec "$python" "$root/protocols/runner.py" "$command" "$@"
