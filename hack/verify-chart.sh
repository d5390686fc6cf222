#!/usr/bin/env bash
# Lints the Helm chart, with the fewest values and with all, and tests its alert rules. Package test/chart tests what the
# chart renders.
set -euo pipefail
cd "$(dirname "$0")/.."

chart=deploy/charts/keyturn
for values in $chart/values.yaml test/chart/testdata/*.yaml; do
	bin/tools/helm lint --strict --quiet --kube-version 1.36.0 --namespace keyturn-system --values "$values" $chart
done
bin/tools/promtool check rules --lint=all --lint-fatal $chart/files/alerts.yaml
bin/tools/promtool test rules test/chart/alerts_test.yaml
