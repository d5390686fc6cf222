#!/usr/bin/env bash
# Measures whether the tests of packages notice faults; see docs/testing.md. Run by `make mutate`. PACKAGES names the
# packages, by default those of the table in docs/testing.md whose tests need no API server. ONLY is a regular
# expression that matches the faults to try. The result is Markdown, on standard output.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
	./token ./jwks ./signer ./signer/keydir ./internal/strictjson ./internal/hostkeys ./internal/signer/pkcs11uri
	./internal/nodes ./internal/nodes/pools ./internal/nodes/tokens ./internal/inuse
)
[ -z "${PACKAGES:-}" ] || read -ra packages <<<"$PACKAGES"
go build -C tools/mutate -o "$PWD/bin/tools/" .
exec nice -n 10 bin/tools/mutate -accepted docs/mutants.md -only "${ONLY:-}" "${packages[@]}"
