#!/usr/bin/env bash
# Measure Keyturn on real clusters of this machine; see docs/benchmarks.md. Run by `make bench`, which has built the
# programs. Flags are handed on: `hack/bench.sh --help`. The results go to bench/.
set -euo pipefail

cd "$(dirname "$0")/.."
go build -o bin/tools/bench ./test/bench
exec bin/tools/bench "$@"
