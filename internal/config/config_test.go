package config

import (
	"bytes"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

const valid = `apiVersion: v1
kind: UserCluster
name: demo
gkeOnPremVersion: 1.36.4-gke.1
network:
  serviceCIDR: 10.96.0.0/20
  podCIDR: 192.168.0.0/16
`

// documented has every field of the product's documented example, and some more.
const documented = valid + `enableControlplaneV2: true
enableDataplaneV2: true
loadBalancer:
  vips: {controlPlaneVIP: "172.16.21.6", ingressVIP: "172.16.21.7"}
  kind: MetalLB
  metalLB: {addressPools: [{name: "address-pool-1", addresses: ["172.16.21.30/32"]}]}
masterNode: {cpus: 4, memoryMB: 8192, replicas: 3}
nodePools:
- {name: pool-1, cpus: 4, memoryMB: 8192, replicas: 3, enableLoadBalancer: true, osImageType: ubuntu_cgv2}
- name: pool-2
  cpus: 4
  replicas: 0
  gkeOnPremVersion: 1.36.4-gke.1
  labels: {environment: production, node.kubernetes.io/kind: "2"}
  taints:
  - {key: staging, value: "true", effect: NoSchedule}
  - {key: staging, effect: NoExecute}
  updateStrategy: {rollingUpdate: {maxSurge: 2}}
antiAffinityGroups: {enabled: true}
gkeConnect: {projectID: my-project-123, location: us-central1, registerServiceAccountKeyPath: connect-register.json}
stackdriver: {projectID: my-project-123, clusterLocation: us-central1, enableVPC: false, serviceAccountKeyPath: l.json}
autoRepair: {enabled: true}
ksaSigningKey:
  source: files
  nodeRefresh: InPlace
  tokenReload: 90s
  retireTimeout: 2h
  algorithm: ES256
  issuer: https://tokens.example.com/demo
  publish: ["s3://bucket", "gs://other"]
  publishMaxAge: 5m
`

func TestParseDocumented(t *testing.T) {
	c, err := Parse([]byte(documented))
	if err != nil {
		t.Fatal(err)
	}
	wantSpec := v1alpha1.UserClusterSpec{
		Infrastructure: v1alpha1.Infrastructure{Local: &v1alpha1.LocalInfrastructure{
			KubernetesVersion: "v1.36.4",
			Network:           v1alpha1.Network{ServiceCIDR: "10.96.0.0/20", PodCIDR: "192.168.0.0/16"},
			ControlPlane:      v1alpha1.ControlPlane{Replicas: 3},
			NodePools: []v1alpha1.NodePool{
				{Name: "pool-1", Replicas: 3, MaxSurge: 1},
				{
					Name: "pool-2", MaxSurge: 2,
					Labels: map[string]string{"environment": "production", "node.kubernetes.io/kind": "2"},
					Taints: []corev1.Taint{
						{Key: "staging", Value: "true", Effect: corev1.TaintEffectNoSchedule},
						{Key: "staging", Effect: corev1.TaintEffectNoExecute},
					},
				},
			},
		}},
		KSASigningKey: v1alpha1.KSASigningKey{
			Version: 1, Source: v1alpha1.KeySourceFiles, Algorithm: v1alpha1.ES256,
			NodeRefresh: v1alpha1.NodeRefreshInPlace, TokenReloadSeconds: 90,
			Retire: v1alpha1.RetireAfterRefresh, RetireTimeoutSeconds: 7200,
			Issuer: "https://tokens.example.com/demo", Publish: []string{"s3://bucket", "gs://other"}, PublishMaxAgeSeconds: 300,
		},
		GKEConnect: &v1alpha1.GKEConnect{ProjectID: "my-project-123", Location: "us-central1",
			CredentialsSecret: "demo-gke-connect"},
	}
	got := c.Object(Files{})
	if diff := cmp.Diff(wantSpec, got.Spec); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	if got.Namespace != v1alpha1.SystemNamespace || got.Name != "demo" {
		t.Errorf("object is %s/%s", got.Namespace, got.Name)
	}
	wantUnused := []string{
		"enableDataplaneV2", "loadBalancer", "masterNode.cpus", "masterNode.memoryMB", "nodePools[].cpus",
		"nodePools[].memoryMB", "nodePools[].enableLoadBalancer", "nodePools[].osImageType", "antiAffinityGroups",
		"stackdriver", "autoRepair",
	}
	if diff := cmp.Diff(wantUnused, c.WithoutEffect()); diff != "" {
		t.Errorf("fields without effect (-want +got):\n%s", diff)
	}
}

func TestParseDefaults(t *testing.T) {
	c, err := Parse([]byte(valid + "nodePools: [{name: a, replicas: 1}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := v1alpha1.UserClusterSpec{
		Infrastructure: v1alpha1.Infrastructure{Local: &v1alpha1.LocalInfrastructure{
			KubernetesVersion: "v1.36.4",
			Network:           v1alpha1.Network{ServiceCIDR: "10.96.0.0/20", PodCIDR: "192.168.0.0/16"},
			ControlPlane:      v1alpha1.ControlPlane{Replicas: 1},
			NodePools:         []v1alpha1.NodePool{{Name: "a", Replicas: 1, MaxSurge: 1}},
		}},
		KSASigningKey: v1alpha1.KSASigningKey{
			Version: 1, Source: v1alpha1.KeySourceExternal, Algorithm: v1alpha1.RS256,
			NodeRefresh: v1alpha1.NodeRefreshReplace, TokenReloadSeconds: 300,
			Retire: v1alpha1.RetireAfterRefresh, RetireTimeoutSeconds: 86400,
			Issuer: "https://kubernetes.default.svc.cluster.local", PublishMaxAgeSeconds: 60,
		},
	}
	if diff := cmp.Diff(want, c.Object(Files{}).Spec); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	if got := c.WithoutEffect(); len(got) != 0 {
		t.Errorf("fields without effect = %v, want none", got)
	}
}

// asWritten has what the product's templates and the files of its users have beside the documented example.
const asWritten = `apiVersion: v1
kind: UserCluster
name: demo
gkeOnPremVersion: "1.36.200-gke.68"
network:
  additionalInterfaces: []
  serviceCIDR: 10.96.0.0/20
  podCIDR: 192.168.0.0/16
nodePools:
- &pool
  name: a
  replicas: 2
  labels: &labels {kind: small}
  updateStrategy: {rollingUpdate: {maxSurge: "2"}}
- <<: *pool
  name: b
  gkeOnPremVersion: 1.35.700-gke.12
- {<<: [{replicas: 1}, *pool], name: c, labels: *labels}
gkeConnect:
  projectID: my-project-123
  registerServiceAccountKey: {secretRef: {version: latest}}
  agentServiceAccountKeyPath: agent.json
nodePoolUpdatePolicy: {maximumConcurrentNodePoolUpdate: 1}
enableVMTracking: true
cloudRun: {enabled: false}
componentAccessServiceAccountKeyPath: access.json
privateRegistry: {address: registry.test}
dataplaneV2: {forwardMode: snat}
disableBundledIngress: true
binaryAuthorization: {evaluationMode: DISABLED}
infraConfigFilePath: infrastructure.yaml
---
# Nothing follows.
---
`

func TestParseAsWritten(t *testing.T) {
	c, err := Parse([]byte(asWritten))
	if err != nil {
		t.Fatal(err)
	}
	spec := c.Object(Files{}).Spec
	small := map[string]string{"kind": "small"}
	wantPools := []v1alpha1.NodePool{
		{Name: "a", Replicas: 2, MaxSurge: 2, Labels: small},
		{Name: "b", Replicas: 2, MaxSurge: 2, Labels: small},
		{Name: "c", Replicas: 1, MaxSurge: 2, Labels: small},
	}
	if diff := cmp.Diff(wantPools, spec.Infrastructure.Local.NodePools); diff != "" {
		t.Errorf("node pools (-want +got):\n%s", diff)
	}
	if got := spec.Infrastructure.Local.KubernetesVersion; got != "v1.36.4" {
		t.Errorf("Kubernetes version is %s", got)
	}
	if got := spec.GKEConnect.Location; got != "global" {
		t.Errorf("location is %q", got)
	}
	wantNotes := []string{
		"gkeConnect.location is not set: the membership is in global, and cannot be moved later",
		"gkeOnPremVersion 1.36.200-gke.68: the cluster gets Kubernetes v1.36.4",
	}
	if diff := cmp.Diff(wantNotes, c.Notes()); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	wantUnused := []string{
		"network.additionalInterfaces", "gkeConnect.registerServiceAccountKey", "gkeConnect.agentServiceAccountKeyPath",
		"nodePoolUpdatePolicy", "enableVMTracking", "cloudRun", "componentAccessServiceAccountKeyPath", "privateRegistry",
		"dataplaneV2", "disableBundledIngress", "binaryAuthorization", "infraConfigFilePath", "nodePools[].gkeOnPremVersion",
	}
	if diff := cmp.Diff(wantUnused, c.WithoutEffect()); diff != "" {
		t.Errorf("fields without effect (-want +got):\n%s", diff)
	}
}

// A file of a few lines must not stand for billions of values.
func TestParseManyAliases(t *testing.T) {
	var file strings.Builder
	file.WriteString(valid + "nodePools:\n- {name: a, replicas: 1, taints: &t [")
	file.WriteString(strings.Repeat("{key: a, effect: NoExecute}, ", 1000) + "]}\n")
	file.WriteString(strings.Repeat("- {name: b, replicas: 1, taints: *t}\n", 1000))
	_, err := Parse([]byte(file.String()))
	if err == nil || !strings.Contains(err.Error(), "the aliases of the file expand to more than 20000 values") {
		t.Errorf("Parse = %.200v", err)
	}
}

func TestKubernetesVersion(t *testing.T) {
	for version, want := range map[string]string{
		"1.36.4-gke.1":                    "v1.36.4",
		"1.36.2-gke.1":                    "v1.36.2",
		"1.36.0-gke.500":                  "v1.36.4",
		"1.35.1100-gke.12":                "v1.35.8",
		"1.35.90000000000000000000-gke.1": "v1.35.8",
	} {
		if got, err := kubernetesVersion(version); got != want || err != nil {
			t.Errorf("%s is Kubernetes %s, %v; want %s", version, got, err, want)
		}
	}
}

// What `make kube` builds is pinned in one module for each minor version.
func TestReleasesAreBuilt(t *testing.T) {
	for i, minor := range Minors() {
		mod, err := os.ReadFile("../../tools/kube/" + minor + "/go.mod")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(mod), "\tk8s.io/kubernetes "+Releases[i]+" ") {
			t.Errorf("tools/kube/%s does not build %s", minor, Releases[i])
		}
	}
	if got, err := kubernetesVersion(DefaultVersion); got != Releases[0] || err != nil {
		t.Errorf("DefaultVersion is Kubernetes %s, %v", got, err)
	}
}

func TestObjectFleet(t *testing.T) {
	const start = valid + "gkeConnect: {projectID: project-1, location: global"
	for add, want := range map[string]v1alpha1.GKEConnect{
		"": {ProjectID: "project-1", Location: "global", CABundle: "pem"},
		", endpoint: 'https://127.0.0.1:9443/hub', stsEndpoint: 'https://sts.test', propagationTime: 1h30m": {
			ProjectID: "project-1", Location: "global", CABundle: "pem",
			Endpoint: "https://127.0.0.1:9443/hub", STSEndpoint: "https://sts.test", PropagationSeconds: 5400,
		},
		", registerServiceAccountKeyPath: /key.json, propagationTime: 168h": {
			ProjectID: "project-1", Location: "global", CABundle: "pem", CredentialsSecret: "demo-gke-connect",
			PropagationSeconds: 604800,
		},
	} {
		c, err := Parse([]byte(start + add + "}\n"))
		if err != nil {
			t.Errorf("%s: %v", add, err)
			continue
		}
		if diff := cmp.Diff(&want, c.Object(Files{Certificates: "pem"}).Spec.GKEConnect); diff != "" {
			t.Errorf("%s: gkeConnect (-want +got):\n%s", add, diff)
		}
	}
}

// Every case is a whole file, or lines added to a valid one.
func TestParseProblems(t *testing.T) {
	tests := []struct {
		name, file, add string
		want            []string
	}{
		{name: "empty", file: "\n# nothing\n", want: []string{"the file is empty"}},
		{name: "null", file: "null\n", want: []string{"the file is empty"}},
		{name: "list", file: "- a\n", want: []string{"the file holds a list, not fields of a UserCluster"}},
		{name: "syntax", file: "a: [1\n", want: []string{"line 1: did not find expected ',' or ']'"}},
		{name: "two documents", add: "---\nname: b\n", want: []string{"the file holds more than one document"}},
		{name: "alias", file: strings.NewReplacer("v1\n", "&v v1\n", "UserCluster", "*v").Replace(valid), want: []string{
			`kind: must be UserCluster, not "v1" (line 2)`,
		}},
		{name: "alias as a key", add: "masterNode: &r replicas\nnodePools: {*r : 3}\n", want: []string{
			"masterNode: must be a mapping, not the string \"replicas\" (line 8)",
			"nodePools: must be a list, not a mapping (line 9)",
		}},
		{name: "merged scalar", add: "masterNode: {<<: [{replicas: 3}, 5]}\n", want: []string{
			"masterNode: merges a whole number (5); put quotes around it to make it a string; only mappings can be merged " +
				"(line 8)",
		}},
		{name: "merged into itself", add: "masterNode: &m {<<: *m}\n", want: []string{
			"masterNode: the aliases of the file expand to more than 20000 values; write some of them out (line 8)",
		}},
		{name: "wrong number in quotes", add: "masterNode: {replicas: \"3.0\"}\n", want: []string{
			`masterNode.replicas: must be a whole number, not the string "3.0" (line 8)`,
		}},
		{name: "wrong kind", file: strings.NewReplacer("v1\n", "v2\n", "UserCluster", "AdminCluster").Replace(valid),
			want: []string{
				`apiVersion: must be v1, not "v2" (line 1)`, `kind: must be UserCluster, not "AdminCluster" (line 2)`,
			}},
		{name: "unknown fields", add: "masterNode: {replica: 3}\nnodepools: []\n", want: []string{
			"masterNode.replica: unknown field (line 8)", "nodepools: unknown field (line 9)",
		}},
		{name: "duplicate keys", add: "name: other\nstackdriver: {}\nstackdriver: {}\n", want: []string{
			"name: duplicate key, first on line 3 (line 8)", "stackdriver: duplicate key, first on line 9 (line 10)",
		}},
		{name: "wrong types",
			add: "enableAdvancedCluster: \"yes\"\nmasterNode: 3\nnodePools:\n- {name: 5, replicas: 1.5}\n" +
				"- {name: a, replicas: 9999999999, labels: {a: true}}\n", want: []string{
				`enableAdvancedCluster: must be true or false, not the string "yes" (line 8)`,
				"masterNode: must be a mapping, not a whole number (3); put quotes around it to make it a string (line 9)",
				"nodePools[0].name: must be a string, not a whole number (5); put quotes around it to make it a string (line 11)",
				"nodePools[0].replicas: must be a whole number, not a decimal number (1.5); put quotes around it to make it a " +
					"string (line 11)",
				"nodePools[1].replicas: 9999999999 is not in the range of a whole number (line 12)",
				"nodePools[1].labels.a: must be a string, not true or false (true); put quotes around it to make it a string " +
					"(line 12)",
			}},
		{name: "names", file: strings.Replace(valid, "demo", "-Demo", 1),
			add: "nodePools: [{name: a, replicas: 1}, {name: a, replicas: 1}, {name: a_b, replicas: 1}, {replicas: 1}]\n",
			want: []string{
				`name: "-Demo" ` + nameRule + " (line 3)",
				`nodePools[1].name: duplicate "a" (line 8)`,
				`nodePools[2].name: "a_b" ` + nameRule + " (line 8)",
				"nodePools[3].name: is missing",
			}},
		{name: "replicas",
			add: "masterNode: {replicas: 2}\nnodePools:\n- {name: a}\n- {name: b, replicas: -1}\n" +
				"- {name: c, replicas: 101, updateStrategy: {rollingUpdate: {maxSurge: 0}}}\n", want: []string{
				"masterNode.replicas: must be 1 or 3, not 2 (line 8)",
				"nodePools[1].replicas: must be 0 to 100, not -1 (line 11)",
				"nodePools[2].replicas: must be 0 to 100, not 101 (line 12)",
				"nodePools[2].updateStrategy.rollingUpdate.maxSurge: must be 1 to 100, not 0: a new node is added before an " +
					"old one is removed (line 12)",
				"nodePools[0].replicas: is missing",
			}},
		{name: "versions", file: strings.Replace(valid, "1.36.4-gke.1", "1.34.200-gke.68", 1),
			add: "nodePools: [{name: a, replicas: 1, gkeOnPremVersion: 1.35.0-gke.1}]\n", want: []string{
				`gkeOnPremVersion: "1.34.200-gke.68" is not supported: clusters can have Kubernetes 1.36 or 1.35 (line 4)`,
			}},
		{name: "version syntax", file: strings.Replace(valid, "1.36.4-gke.1", "v1.36.4", 1), want: []string{
			`gkeOnPremVersion: "v1.36.4" is not a version like 1.36.4-gke.1 (line 4)`,
		}},
		{name: "empty range", file: strings.Replace(valid, "10.96.0.0/20", `""`, 1),
			want: []string{"network.serviceCIDR: is missing (line 6)"}},
		{name: "bad ranges", file: strings.NewReplacer("10.96.0.0/20", "10.96.0.1/20", "192.168.0.0/16",
			"fd00::/64").Replace(valid), want: []string{
			"network.serviceCIDR: 10.96.0.1/20 does not begin at its first address; write 10.96.0.0/20 (line 6)",
			`network.podCIDR: "fd00::/64" is not an IPv4 range like 10.96.0.0/20 (line 7)`,
		}},
		{name: "reserved ranges", file: strings.NewReplacer("10.96.0.0/20", "127.0.0.0/20", "192.168.0.0/16",
			"169.254.0.0/16").Replace(valid), want: []string{
			"network.serviceCIDR: 127.0.0.0/20 is reserved and cannot be used by a cluster (line 6)",
			"network.podCIDR: 169.254.0.0/16 is reserved and cannot be used by a cluster (line 7)",
		}},
		{name: "overlap", file: strings.Replace(valid, "10.96.0.0/20", "192.168.16.0/20", 1), want: []string{
			"network.podCIDR: 192.168.0.0/16 overlaps with network.serviceCIDR 192.168.16.0/20 (line 7)",
		}},
		{name: "small ranges", file: strings.NewReplacer("10.96.0.0/20", "10.96.0.0/29", "192.168.0.0/16",
			"192.168.0.0/25").Replace(valid), want: []string{
			"network.serviceCIDR: 10.96.0.0/29 must be between a /12 and a /28 (line 6)",
			"network.podCIDR: 192.168.0.0/25 must be between a /8 and a /24: every node gets a /24 of it (line 7)",
		}},
		{name: "no room for nodes", file: strings.Replace(valid, "/16", "/23", 1),
			add: "nodePools: [{name: a, replicas: 2}, {name: b, replicas: 0}]\n", want: []string{
				"network.podCIDR: 192.168.0.0/23 is too small: it has room for 2 nodes, each with a /24, and nodePools have up " +
					"to 3 while nodes are replaced (line 7)",
			}},
		{name: "labels and taints",
			add: "nodePools:\n- name: a\n  replicas: 1\n  labels:\n    keyturn.dev/node-pool: b\n" +
				"    topology.kubernetes.io/zone: z\n    kubelet.kubernetes.io/x: y\n  taints:\n  - {key: a, effect: Never}\n" +
				"  - {effect: NoExecute}\n  - {key: b, effect: NoExecute}\n  - {key: b, value: other, effect: NoExecute}\n",
			want: []string{
				"nodePools[0].labels.keyturn.dev/node-pool: labels of keyturn.dev are reserved (line 12)",
				"nodePools[0].labels.topology.kubernetes.io/zone: labels of topology.kubernetes.io are reserved (line 13)",
				`nodePools[0].taints[0].effect: must be NoSchedule or PreferNoSchedule or NoExecute, not "Never" (line 16)`,
				"nodePools[0].taints[3]: duplicate b:NoExecute (line 19)",
				"nodePools[0].taints[1].key: is missing",
			}},
		{name: "features",
			add: "enableControlplaneV2: false\n" +
				"ksaSigningKey: {source: floppy, algorithm: HS256, nodeRefresh: Never, tokenReload: 0s, retire: Never, " +
				"retireTimeout: 8761h}\ngkeConnect: {projectID: p}\n", want: []string{
				"enableControlplaneV2: must be true: a control plane inside the admin cluster is not supported (line 8)",
				`ksaSigningKey.source: must be external or files, not "floppy" (line 9)`,
				`ksaSigningKey.algorithm: must be RS256 or ES256, not "HS256" (line 9)`,
				`ksaSigningKey.nodeRefresh: must be Replace or InPlace or Wait or Evict, not "Never" (line 9)`,
				`ksaSigningKey.retire: must be AfterRefresh or WhenUnused, not "Never" (line 9)`,
				"ksaSigningKey.retireTimeout: must be 1s to 8760h, not 8761h (line 9)",
				"ksaSigningKey.tokenReload: must be 1s to 24h, not 0s (line 9)",
				`gkeConnect.projectID: "p" is not the ID of a project, like my-project-123 (line 10)`,
			}},
		{name: "retire without ledgers", add: "ksaSigningKey: {source: files, retire: WhenUnused}\n", want: []string{
			"ksaSigningKey.retire: WhenUnused needs ksaSigningKey.source external: without a signer nobody knows which tokens " +
				"live (line 8)",
		}},
		{name: "issuer",
			add: "ksaSigningKey: {issuer: \"https://user:pass@a.test\", publish: [ftp://a, \"s3://a\", \"s3://a\", 5], " +
				"publishMaxAge: 500ms}\n", want: []string{
				"ksaSigningKey.publish[3]: must be a string, not a whole number (5); put quotes around it to make it a string " +
					"(line 8)",
				"ksaSigningKey.issuer: must not hold a user name or a password (line 8)",
				"ksaSigningKey.publish[0]: must begin with file://, s3://, gs:// or azblob:// (line 8)",
				"ksaSigningKey.publish[2]: is a duplicate (line 8)",
				"ksaSigningKey.publishMaxAge: must be 1s to 168h, not 500ms (line 8)",
			}},
		{name: "long place", add: "ksaSigningKey: {issuer: \"https://a.test\", publish: [gs://" + strings.Repeat("a", 508) +
			"]}\n", want: []string{
			"ksaSigningKey.publish[0]: has 513 characters; it may have 512 (line 8)",
		}},
		{name: "nobody can fetch", add: "ksaSigningKey: {publish: [s3://a]}\n", want: []string{
			"ksaSigningKey.publish: needs an issuer: verifiers fetch the documents from ksaSigningKey.issuer, and nobody " +
				"outside the cluster can fetch any from https://kubernetes.default.svc.cluster.local (line 8)",
		}},
		{name: "too many places",
			add: "ksaSigningKey: {issuer: \"https://a.test\", publish: [s3://a, s3://b, s3://c, s3://d, s3://e, s3://f, " +
				"s3://g, s3://h, s3://i], publishMaxAge: 169h}\n", want: []string{
				"ksaSigningKey.publish: has 9 URLs; keys are published at 8 at most (line 8)",
				"ksaSigningKey.publishMaxAge: must be 1s to 168h, not 169h (line 8)",
			}},
		{name: "durations", add: "ksaSigningKey: {publishMaxAge: 60}\n" +
			"gkeConnect: {projectID: project-1, location: Mars, propagationTime: [1s]}\n", want: []string{
			`ksaSigningKey.publishMaxAge: must be a duration like 10m, not "60" (line 8)`,
			"gkeConnect.propagationTime: must be a duration like 10m, not a list (line 9)",
			`gkeConnect.location: "Mars" is not a location, like us-central1 or global (line 9)`,
		}},
		{name: "fleet", add: "gkeConnect:\n  projectID: my-project-123\n  registerServiceAccountKeyPath: \"\"\n" +
			"  endpoint: http://a.test\n  stsEndpoint: https://a.test/?key=value\n  propagationTime: -1s\n  proxy: x\n",
			want: []string{
				"gkeConnect.endpoint: must be a URL like https://example.com (line 11)",
				"gkeConnect.stsEndpoint: must not have a query or a fragment (line 12)",
				"gkeConnect.propagationTime: must be 0s to 168h, not -1s (line 13)",
				"gkeConnect.proxy: unknown field (line 14)",
			}},
		{name: "propagation", add: "gkeConnect: {projectID: my-project-123, location: global, propagationTime: 1m0.5s}\n",
			want: []string{
				"gkeConnect.propagationTime: must be whole seconds, not 1m0.5s (line 8)",
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := tt.file
			if file == "" {
				file = valid
			}
			c, err := Parse([]byte(file + tt.add))
			var invalid *InvalidError
			if !errors.As(err, &invalid) || c != nil {
				t.Fatalf("Parse = %v, %v; want an InvalidError alone", c, err)
			}
			if diff := cmp.Diff(tt.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// Verifiers compare issuers as strings, so there is one way to write one; and none is quoted, since it may hold a
// password.
func TestIssuers(t *testing.T) {
	const like, slash, query = "must be a URL like https://", "must not end with a slash",
		"must not have a query or a fragment"
	for issuer, want := range map[string]string{
		"https://a.test":                             "",
		"https://a.test:8443/b/c-d_e.f%20g":          "",
		"https://[::1]:8443/b":                       "",
		"https://" + strings.Repeat("a", 504):        "",
		"https://" + strings.Repeat("a", 505):        "has 513 characters; it may have 512",
		"http://a.test":                              like,
		"HTTPS://a.test":                             like,
		"a.test":                                     like,
		"https://":                                   like,
		"https:///b":                                 like,
		"https://:443":                               like,
		"https://a.test:x":                           like,
		"https://a.test//b":                          like,
		"https://a.test/b c":                         like,
		"https://a.test/":                            slash,
		"https://a.test/b/":                          slash,
		"https://a.test?":                            query,
		"https://a.test#":                            query,
		"https://a.test/b?secret=secret":             query,
		"https://secret@a.test":                      "must not hold a user name or a password",
		"https://user:secret@a.test/b":               "must not hold a user name or a password",
		"https://user:secret%zz@a.test":              like,
		"http://user:secret@kubernetes.default.test": like,
	} {
		file := valid + "ksaSigningKey: {issuer: '" + issuer + "'}\n"
		c, err := Parse([]byte(file))
		if want == "" {
			if err != nil || c.Object(Files{}).Spec.KSASigningKey.Issuer != issuer {
				t.Errorf("%s: %v", issuer, err)
			}
			continue
		}
		if err == nil || !strings.HasPrefix(err.Error(), "ksaSigningKey.issuer: "+want) ||
			strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error = %v, want %s", issuer, err, want)
		}
	}
}

func TestParseTooLarge(t *testing.T) {
	_, err := Parse(bytes.Repeat([]byte("#\n"), maxSize))
	if err == nil || !strings.Contains(err.Error(), "at most 1048576") {
		t.Errorf("Parse = %v", err)
	}
}

func TestTemplate(t *testing.T) {
	data, err := Template("my-cluster", "")
	if err != nil {
		t.Fatal(err)
	}
	// Every line that is commented out is valid too, once it is not.
	for name, file := range map[string][]byte{"as it is": data, "uncommented": uncomment(data)} {
		c, err := Parse(file)
		if err != nil {
			t.Fatalf("template %s: %v\n%s", name, err, file)
		}
		if c.Name != "my-cluster" || c.KubernetesVersion() != "v1.36.4" {
			t.Errorf("template %s has name %q and version %q", name, c.Name, c.KubernetesVersion())
		}
	}
	c, err := Parse(uncomment(data))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.NodePools[0].Labels) == 0 || len(c.NodePools[0].Taints) == 0 {
		t.Errorf("the uncommented template lacks some of its fields")
	}
	for name, part := range map[string]any{"ksaSigningKey": c.KSASigningKey, "gkeConnect": *c.GKEConnect} {
		for f, v := range reflect.ValueOf(part).Fields() {
			if f.Name != "_" && v.IsZero() {
				t.Errorf("the uncommented template lacks %s.%s", name, f.Tag.Get("yaml"))
			}
		}
	}
	for _, bad := range [][2]string{{"Bad", ""}, {"", ""}, {"a", "1.2"}, {"a", "1.34.0-gke.1"}} {
		if _, err := Template(bad[0], bad[1]); err == nil {
			t.Errorf("Template(%q, %q) is no error", bad[0], bad[1])
		}
	}
}

// uncomment takes the comment sign from lines that hold a field: "# key: …" or "# - key: …".
func uncomment(data []byte) []byte {
	var out []string
	for line := range strings.Lines(string(data)) {
		indent, rest, ok := strings.Cut(line, "# ")
		key, _, isField := strings.Cut(strings.TrimPrefix(strings.TrimLeft(rest, " "), "- "), ":")
		if ok && strings.TrimSpace(indent) == "" && isField && !strings.Contains(key, " ") {
			line = indent + rest
		}
		out = append(out, line)
	}
	return []byte(strings.Join(out, ""))
}

func FuzzParse(f *testing.F) {
	data, err := Template("a", "")
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{valid, documented, asWritten, string(data), "", "a: *b", "? {a: b}\n: c", "- &a [*a]",
		"nodePools: [null, {}]", "!!binary x", "a: !b c"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			var invalid *InvalidError
			if !errors.As(err, &invalid) || len(invalid.Problems) == 0 || c != nil {
				t.Fatalf("Parse = %v, %#v", c, err)
			}
			return
		}
		uc := c.Object(Files{})
		if !namePattern.MatchString(uc.Name) || uc.Spec.Infrastructure.Local.KubernetesVersion == "" ||
			uc.Spec.KSASigningKey.Version != 1 {
			t.Errorf("a valid file makes an invalid object: %+v", uc)
		}
	})
}
