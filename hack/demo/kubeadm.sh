#!/usr/bin/env bash
# A cluster that kubeadm made, of three control-plane nodes and two workers on this machine: Keyturn is installed in it by
# Helm, adopts it, gives each kube-apiserver a signer, for which that is restarted once, and rotates the signing key twice,
# for which nothing is. Pods use every kind of token all the time. Run by `make demo-kubeadm`; `make demo-kubeadm-down` removes all of it.
# KEYTURN_DEMO_DIR is where it lives (default: .demo-kubeadm).
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/hack/demo/common.sh"
dir=${KEYTURN_DEMO_DIR:-$root/.demo-kubeadm}
version=v1.36.4
kube=${KEYTURN_KUBE_BIN_DIR:-$root/bin/kube/$version}
network=${KEYTURN_DEMO_NETWORK:-10.87.0.0/24}
export KUBECONFIG=$dir/cluster/admin.conf

kubectl() { run "$kube/kubectl" "$@"; }
gkectl() { run "$root/bin/gkectl" "$@" --config "$dir/self.yaml" --kubeconfig "$KUBECONFIG"; }
cluster() {
	(cd "$root" && go run ./tools/kubeadm -dir "$dir/cluster" -version "$version" -kube "$kube" -network "$network" \
		-images bin/images "$@")
}

up() {
	[ ! -e "$dir" ] || { echo "$dir exists: run make demo-kubeadm-down first" >&2 && exit 1; }
	mkdir -p "$dir"
	say "1. A cluster of three control-plane nodes and two workers, made by kubeadm"
	cluster -control-planes 3 up
	kubectl wait --for condition=Ready nodes --all --timeout 3m
	echo "No more nodes join. A rotation that finds what kubeadm uploaded for them would wait a minute for one that has just read it:"
	kubectl -n kube-system delete secret kubeadm-certs

	say "2. Pods that use a bound, a legacy and a third-party token four times a second, at each API server"
	"$root/bin/keyturn-probe" manifests --replicas 2 --rate 4 >"$dir/probe.yaml"
	kubectl apply -f "$dir/probe.yaml"
	kubectl -n keyturn-probe rollout status deployment/keyturn-probe --timeout 3m

	say "3. Keyturn, installed in the cluster whose keys it is to rotate"
	kubectl create namespace keyturn-system
	kubectl label namespace keyturn-system pod-security.kubernetes.io/enforce=restricted
	run "$root/bin/tools/helm" install keyturn "$root/deploy/charts/keyturn" --namespace keyturn-system \
		--set ownCluster=keyturn-system/self
	kubectl -n keyturn-system rollout status deployment/keyturn-controller --timeout 3m
}

rotate() {
	printf 'apiVersion: v1\nkind: UserCluster\nname: self\ninfrastructure:\n  kubeadm: {}\n' >"$dir/self.yaml"
	say "4. Adopting the cluster, which changes nothing on its nodes"
	gkectl adopt --skip-prompt

	say "5. A signer beside each kube-apiserver, for which one after another is restarted, once"
	printf 'ksaSigningKey:\n  source: external\n' >>"$dir/self.yaml"
	gkectl update cluster

	say "6. Two rotations, which restart no kube-apiserver"
	gkectl update credentials ksa-signing-key rotate --skip-prompt --wait
	gkectl update credentials ksa-signing-key rotate --skip-prompt --wait

	say "7. What the pods saw of it: single API servers were away while they were restarted, and no token was refused"
	run "$root/bin/keyturn-probe" report --kubeconfig "$KUBECONFIG"
}

look_further() {
	say "Look further"
	cat <<END
  the cluster  export KUBECONFIG=$KUBECONFIG
  kubectl      $kube/kubectl
  again        $root/bin/gkectl update credentials ksa-signing-key rotate --wait --config $dir/self.yaml --kubeconfig \$KUBECONFIG
  let it go    kubectl -n keyturn-system delete usercluster self   (kube-apiserver reads files again)
  remove it    make demo-kubeadm-down
END
}

down() {
	[ -d "$dir" ] || exit 0
	cluster down
	rm -rf "$dir"
}

main "$@"
