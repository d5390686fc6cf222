#!/usr/bin/env bash
# A cluster of Cluster API with real nodes on this machine. Its management cluster has the real managers of Cluster API,
# an infrastructure provider whose machines are on this host, and Keyturn, which adopts the cluster, gives its
# kube-apiserver a signer, and rotates the signing key. Pods use every kind of token all the time. Run by
# `make demo-capi`; `make demo-capi-down` removes all of it, also after an interrupted run. KEYTURN_DEMO_DIR is where it
# lives (default: .demo-capi).
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/hack/demo/common.sh"
dir=${KEYTURN_DEMO_DIR:-$root/.demo-capi}
version=v1.36.4
kube=${KEYTURN_KUBE_BIN_DIR:-$root/bin/kube/$version}
capi=$root/bin/capi/v1.14.2
network=${KEYTURN_DEMO_NETWORK:-10.86.0.0/16}
workload=$dir/prod-kubeconfig
export KUBECONFIG=$dir/management/kubeconfig

kubectl() { run "$kube/kubectl" "$@"; }
gkectl() { run "$root/bin/gkectl" "$@" --config "$dir/prod.yaml" --kubeconfig "$KUBECONFIG"; }
management() {
	(cd "$root" && go run ./tools/management -dir "$dir/management" -version "$version" -kube "$kube" -capi "$capi" \
		-images bin/images "$@")
}

up() {
	[ ! -e "$dir" ] || { echo "$dir exists: run make demo-capi-down first" >&2 && exit 1; }
	mkdir -p "$dir"
	say "1. A management cluster: etcd, kube-apiserver and its controllers, and Cluster API with a provider of local machines"
	management -network "$network" up
	kubectl api-resources --api-group cluster.x-k8s.io -o name

	say "2. A cluster of Cluster API: a KubeadmControlPlane of one machine, and a MachineDeployment of one"
	management cluster >"$dir/prod-cluster.yaml"
	kubectl apply -f "$dir/prod-cluster.yaml"

	say "3. Meanwhile Keyturn, installed in the management cluster, which has no nodes: its controller is a process too"
	run "$root/bin/tools/helm" install keyturn "$root/deploy/charts/keyturn" --namespace keyturn-system --create-namespace \
		--set 'clusterAPI.namespaces={default}' --set replicas=0 >"$dir/helm.log"
	management controller --cluster-api-namespace=default --agent-image=localhost/keyturn/keyturn-agent:dev \
		--signer-image=localhost/keyturn/keyturn-signer:dev
	kubectl wait --for condition=Available cluster/prod --timeout 20m
	kubectl get clusters,kubeadmcontrolplanes,machinedeployments,machines

	say "4. In the cluster: pods that use a bound, a legacy and a third-party token ten times a second"
	"$kube/kubectl" get secret prod-kubeconfig -o jsonpath='{.data.value}' | base64 -d >"$workload"
	chmod 600 "$workload"
	kubectl --kubeconfig "$workload" get nodes
	"$root/bin/keyturn-probe" manifests --replicas 2 >"$dir/probe.yaml"
	kubectl --kubeconfig "$workload" apply -f "$dir/probe.yaml"
	kubectl --kubeconfig "$workload" -n keyturn-probe rollout status deployment/keyturn-probe --timeout 10m
}

rotate() {
	cat >"$dir/prod.yaml" <<-'END'
		apiVersion: v1
		kind: UserCluster
		name: prod
		infrastructure:
		  clusterAPI: {namespace: default, cluster: prod}
	END
	say "5. Adopting the cluster, which changes nothing on its machines"
	gkectl adopt --skip-prompt

	say "6. A signer beside its kube-apiserver, which is restarted for that, once"
	printf 'ksaSigningKey:\n  source: external\n' >>"$dir/prod.yaml"
	gkectl update cluster

	say "7. A rotation. New machines start with the new key as well: Keyturn keeps Secret prod-sa in step"
	gkectl update credentials ksa-signing-key rotate --skip-prompt --wait
	kubectl get machines
	kubectl events --for cluster.cluster.x-k8s.io/prod

	say "8. What the pods saw of it: kube-apiserver was away while it was restarted, and no token was refused"
	run "$root/bin/keyturn-probe" report --kubeconfig "$workload"
}

look_further() {
	say "Look further"
	cat <<-END
		  management cluster  export KUBECONFIG=$KUBECONFIG   (kubectl get clusters,machines,userclusters)
		  the cluster         export KUBECONFIG=$workload
		  kubectl             $kube/kubectl
		  again               $root/bin/gkectl update credentials ksa-signing-key rotate --wait --config $dir/prod.yaml --kubeconfig $KUBECONFIG
		  scale it            kubectl scale kubeadmcontrolplane prod --replicas 3   (and rotate again)
		  remove it           make demo-capi-down
	END
}

down() {
	[ -d "$dir" ] || exit 0
	management down
	rm -rf "$dir"
}

main "$@"
