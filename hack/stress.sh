#!/usr/bin/env bash
# Runs the tests of packages COUNT times, by default 30, while every core is kept busy; see docs/testing.md. Run by
# `make stress`. PACKAGES names the packages, by default all except the end-to-end tests. Prints a line for each
# package; the output of runs that failed is kept in bin/stress.
set -euo pipefail
cd "$(dirname "$0")/.."

count=${COUNT:-30}
read -ra patterns <<<"${PACKAGES:-./...}"
renice -n 5 -p $$ >/dev/null
mkdir -p bin/stress

load=()
end_load() { [ ${#load[@]} = 0 ] || kill "${load[@]}" 2>/dev/null || true; }
trap end_load EXIT
keep_busy() {
	for _ in $(seq "$(nproc)"); do
		timeout 12h bash -c 'while :; do :; done' &
		load+=($!)
	done
}

# run_all PACKAGE DIRECTORY: sets failures.
run_all() {
	local tests=$PWD/bin/stress/tests name run
	name=$(tr / - <<<"${1#github.com/keyturn/keyturn/}")
	rm -f bin/stress/"$name".*.log
	go test -c -o "$tests" "$1"
	failures=0
	for run in $(seq "$count"); do
		(cd "$2" && "$tests" -test.timeout=20m) >"bin/stress/$name.$run.log" 2>&1 || {
			failures=$((failures + 1))
			continue
		}
		rm "bin/stress/$name.$run.log"
	done
}

tested='{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}'
keep_busy
status=0
while read -r package directory; do
	run_all "$package" "$directory"
	printf '%-50s %d runs, %d failed\n' "$package" "$count" "$failures"
	[ "$failures" = 0 ] || status=1
done < <(go list -f "$tested" "${patterns[@]}" | grep -v /test/e2e)
exit $status
