#!/usr/bin/env bash
# The main job, on this machine: an admin cluster with a local fleet, a user cluster with three API servers and two
# nodes, pods that use every kind of token all the time, one rotation of the signing key, and the count of refusals.
# Run by `make demo`; `make demo-down` removes all of it. KEYTURN_DEMO_DIR is where it lives (default: .demo).
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/hack/demo/common.sh"
dir=${KEYTURN_DEMO_DIR:-$root/.demo}
bin=$root/bin
admin=$dir/kubeconfig
user=$dir/demo-kubeconfig
config=$dir/user-cluster.yaml
network=${KEYTURN_DEMO_NETWORK:-10.88.0.0/16}
fleet=https://${network%.0.0/16}.0.5:8443 # where the local fleet of an admin cluster listens

gkectl() { run "$bin/gkectl" "$@"; }
kubectl() { run "$bin/kube/v1.36.4/kubectl" "$@"; }
credentials() { gkectl update credentials ksa-signing-key "$@" --config "$config" --kubeconfig "$admin"; }

# api_servers prints the URL of each API server of the user cluster, which no load balancer is behind.
api_servers() {
	"$bin/kube/v1.36.4/kubectl" --kubeconfig "$admin" -n keyturn-system get usercluster demo \
		-o jsonpath='{.status.apiServers[*].endpoint}' | tr ' ' ','
}

down() {
	[ -d "$dir" ] || exit 0
	if [ -f "$admin" ]; then
		gkectl delete cluster --config "$config" --kubeconfig "$admin" --skip-prompt ||
			echo "the user cluster could not be deleted in order; it is removed with the admin cluster" >&2
	fi
	gkectl delete admin --data-dir "$dir/data" --kubeconfig "$admin" --force --skip-prompt
	rm -rf "$dir"
}

up() {
	mkdir -p "$dir"
	sed "s#FLEET#$fleet#g" "$root/hack/demo/user-cluster.yaml" >"$config"

	say "1. An admin cluster, which holds the UserClusters and their keys, runs the controller, and has a local fleet beside it"
	gkectl create admin --data-dir "$dir/data" --kubeconfig "$admin" --network "$network"

	say "2. A user cluster: three API servers, two nodes, key version 1, registered with the fleet"
	gkectl create cluster --config "$config" --kubeconfig "$admin"
	kubectl --kubeconfig "$user" get nodes -L keyturn.dev/ksa-signing-key-version

	say "3. Pods that use a bound, a legacy and a third-party token ten times a second at each API server, and trade one for a cloud access token"
	"$bin/keyturn-probe" manifests --replicas 2 --api-servers "$(api_servers)" \
		--workload-identity-project my-project --workload-identity-location global --workload-identity-membership demo \
		--workload-identity-sts "$fleet" --workload-identity-resource "$fleet/v1/whoami" --workload-identity-ca-file "$dir/fleet-ca.crt" \
		>"$dir/probe.yaml"
	kubectl --kubeconfig "$user" apply -f "$dir/probe.yaml"
	kubectl --kubeconfig "$user" -n keyturn-probe rollout status deployment/keyturn-probe --timeout 3m
	credentials status
}

rotate() {
	say "4. A rotation of the signing key"
	credentials rotate --skip-prompt
	credentials status
	say "   It runs by itself; here is what it does"
	credentials status --wait
	kubectl --kubeconfig "$user" get nodes -L keyturn.dev/ksa-signing-key-version

	say "5. What the pods saw of it"
	run "$bin/keyturn-probe" report --kubeconfig "$user"
	say "   And what the fleet trusts now"
	gkectl describe clusters demo --kubeconfig "$admin" | sed -n '/^Fleet:/,/^API servers:/{/^API servers:/!p}'
}

look_further() {
	say "Look further"
	cat <<EOF
  admin cluster  export KUBECONFIG=$admin   (kubectl get userclusters,events -A)
  user cluster   export KUBECONFIG=$user
  kubectl        $bin/kube/v1.36.4/kubectl
  again          $bin/gkectl update credentials ksa-signing-key rotate --wait --config $config --kubeconfig $admin
  remove it      make demo-down
EOF
}

main "$@"
