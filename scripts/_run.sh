# Sourced by train.sh, test.sh, benchmark.sh and ablate.sh, with $command and $here (this folder): calls the checkout's
# Python, from whatever folder and shell one calls. PYTHON chooses another interpreter.
root=$(dirname -- "$here")
python=${PYTHON:-$root/.venv/bin/python}
if ! command -v "$python" >/dev/null; then
    echo "error: $python is not there; run 'make .venv/.installed' in $root, or set PYTHON" >&2
    exit 2
fi
exec "$python" "$root/protocols/runner.py" "$command" "$@"
