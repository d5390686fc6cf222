#!/usr/bin/env bash
# Generates code, manifests and references into a directory of its own and compares them with those of the tree, which it
# leaves alone. The chart has copies of the manifests.
set -euo pipefail
cd "$(dirname "$0")/.."

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT

bin/tools/controller-gen paths=./api/... object "output:object:dir=$fresh" crd "output:crd:dir=$fresh"
for file in api/v1alpha1/zz_generated.deepcopy.go api/v1alpha1/manifests/keyturn.dev_userclusters.yaml; do
	diff -u "$file" "$fresh/$(basename "$file")" || {
		echo "$file is out of date: run \`make generate\`" >&2
		exit 1
	}
done

(cd tools/capi && ../../bin/tools/controller-gen paths=./api/... object "output:object:dir=$fresh/capi" \
	crd "output:crd:dir=$fresh/capi")
diff -u tools/capi/api/v1alpha1/zz_generated.deepcopy.go "$fresh/capi/zz_generated.deepcopy.go" &&
	diff -ur --exclude zz_generated.deepcopy.go tools/capi/config/crd "$fresh/capi" || {
	echo "tools/capi is out of date: run \`make generate\`" >&2
	exit 1
}
for file in keyturn.dev_userclusters.yaml policy.yaml rbac.yaml; do
	diff -u "deploy/charts/keyturn/files/$file" "api/v1alpha1/manifests/$file" || {
		echo "deploy/charts/keyturn/files/$file is out of date: run \`make generate\`" >&2
		exit 1
	}
done

go run ./tools/docs -out "$fresh/reference"
diff -ur --exclude README.md docs/reference "$fresh/reference" || {
	echo "docs/reference is out of date: run \`make generate\`" >&2
	exit 1
}
