#!/usr/bin/env bash
# Measures whether the tests of packages notice faults; see docs/testing.md. Run by `make mutate`. PACKAGES names the
# packages, by default those of the table in docs/testing.md; ONLY is a regular expression that matches the faults to
# try. The result is Markdown, on standard output.
set -euo pipefail
cd "$(dirname "$0")/.."

read -ra packages <<<"${PACKAGES:-./token ./jwks ./internal/strictjson ./internal/keystore}"
go build -C tools/mutate -o "$PWD/bin/tools/" .
exec nice -n 10 bin/tools/mutate -accepted docs/mutants.md -only "${ONLY:-}" "${packages[@]}"
