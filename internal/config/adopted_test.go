package config

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubeconfig"
)

// adopts is the least file of an adopted cluster.
const adopts = "apiVersion: v1\nkind: UserCluster\nname: prod\ninfrastructure: {kubeadm: {}}\n"

func TestAdopted(t *testing.T) {
	c, err := Parse([]byte(adopts))
	if err != nil {
		t.Fatal(err)
	}
	want := v1alpha1.UserClusterSpec{
		Infrastructure: v1alpha1.Infrastructure{Kubeadm: &v1alpha1.KubeadmInfrastructure{
			CertificatesDir: "/etc/kubernetes/pki", ShutdownSendRetryAfter: true,
		}},
		KSASigningKey: v1alpha1.KSASigningKey{
			Version: 1, NodeRefresh: v1alpha1.NodeRefreshEvict, TokenReloadSeconds: 300,
			Retire: v1alpha1.RetireAfterRefresh, RetireTimeoutSeconds: 86400, PublishMaxAgeSeconds: 60,
		},
	}
	if diff := cmp.Diff(want, c.Object(Files{}).Spec); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	if !c.Adopts() || c.Names("source") || c.Names("issuer") || c.Names("algorithm") {
		t.Error("the file names what it does not name")
	}
}

// TestAdoptedFields takes every field that an adopted cluster may have.
func TestAdoptedFields(t *testing.T) {
	c, err := Parse([]byte(strings.Replace(adopts, "{}", "{kubeconfigSecret: a, certificatesDir: /etc/kubernetes/ssl, "+
		"shutdownSendRetryAfter: false}", 1) +
		"ksaSigningKey: {source: external, algorithm: ES256, nodeRefresh: Evict, retire: WhenUnused, " +
		"issuer: https://a.test}\n"))
	if err != nil {
		t.Fatal(err)
	}
	spec := c.Object(Files{}).Spec
	if k := spec.Infrastructure.Kubeadm; k.KubeconfigSecret != "a" || k.CertificatesDir != "/etc/kubernetes/ssl" ||
		k.ShutdownSendRetryAfter {
		t.Errorf("kubeadm = %+v", k)
	}
	if k := spec.KSASigningKey; k.Source != "external" || k.Algorithm != "ES256" || k.Issuer != "https://a.test" {
		t.Errorf("ksaSigningKey = %+v", k)
	}
	if !c.Names("source") || !c.Names("issuer") || !c.Names("algorithm") {
		t.Error("the file does not name what it names")
	}
}

// TestAdoptedFieldsWithoutEffect adds infrastructure to a file that has documented fields without a use here. They are
// named, as in every file.
func TestAdoptedFieldsWithoutEffect(t *testing.T) {
	c, err := Parse([]byte(adopts + "loadBalancer: {kind: MetalLB}\nstackdriver: {projectID: a}\n" +
		"gkeConnect: {projectID: my-project-123, registerServiceAccountKey: {secretRef: {version: latest}}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"loadBalancer", "stackdriver", "gkeConnect.registerServiceAccountKey"}
	if diff := cmp.Diff(want, c.WithoutEffect()); diff != "" {
		t.Errorf("fields without effect (-want +got):\n%s", diff)
	}
}

// TestClusterAPI names a cluster of Cluster API, whose UserCluster is beside its Cluster.
func TestClusterAPI(t *testing.T) {
	const kubeadm = "kubeadm: {}"
	c, err := Parse([]byte(strings.Replace(adopts, kubeadm, "clusterAPI: {namespace: fleet, cluster: prod-1}", 1)))
	if err != nil {
		t.Fatal(err)
	}
	uc := c.Object(Files{})
	want := v1alpha1.Infrastructure{
		ClusterAPI: &v1alpha1.ClusterAPIInfrastructure{
			Cluster: "prod-1", Method: v1alpha1.MethodInPlace, ShutdownSendRetryAfter: true,
		},
	}
	if diff := cmp.Diff(want, uc.Spec.Infrastructure); diff != "" || uc.Namespace != "fleet" || uc.Name != "prod" {
		t.Errorf("UserCluster %s/%s (-want +got):\n%s", uc.Namespace, uc.Name, diff)
	}
	const rollout = "clusterAPI: {namespace: fleet, cluster: prod-1, method: Rollout, shutdownSendRetryAfter: false}"
	c, err = Parse([]byte(strings.Replace(adopts, kubeadm, rollout, 1)))
	if err != nil {
		t.Fatal(err)
	}
	spec := c.Object(Files{}).Spec
	on := spec.Infrastructure
	if !on.RollsOut() || on.SendsRetryAfter() || spec.KSASigningKey.NodeRefresh != v1alpha1.NodeRefreshReplace {
		t.Errorf("with method Rollout the spec is %+v", spec)
	}
	_, err = Parse([]byte(strings.Replace(adopts, kubeadm, rollout, 1) + "ksaSigningKey: {source: external}\n"))
	if err == nil || !strings.Contains(err.Error(), "must be files with infrastructure.clusterAPI.method Rollout") {
		t.Errorf("signers on machines that are replaced: %v", err)
	}
	_, err = Parse([]byte(strings.Replace(adopts, kubeadm, "clusterAPI: {cluster: A/b}", 1)))
	if err == nil || err.Error() != `infrastructure.clusterAPI.cluster: "A/b" is not the name of a Cluster (line 4)
infrastructure.clusterAPI.namespace: "" is not the name of a namespace; use the namespace of the Cluster` {
		t.Errorf("names that are none: %v", err)
	}
	_, err = Parse([]byte(strings.Replace(adopts, kubeadm, "clusterAPI: {namespace: a, cluster: a}, "+kubeadm, 1)))
	if err == nil || !strings.Contains(err.Error(), "cannot be combined with kubeadm") {
		t.Errorf("two infrastructures: %v", err)
	}
}

func TestAdoptedProblems(t *testing.T) {
	for _, tt := range []struct {
		name, kubeadm, add string
		want               []string
	}{
		{
			name: "fields of local clusters", kubeadm: "{}",
			add: "gkeOnPremVersion: 1.36.4-gke.1\nnetwork: {podCIDR: 10.0.0.0/8}\nmasterNode: {replicas: 3}\nnodePools: []\n" +
				"enableControlplaneV2: true\nenableAdvancedCluster: false\n",
			want: []string{
				"gkeOnPremVersion: is only for clusters that Keyturn creates: an adopted cluster has its own version (line 5)",
				"network: is only for clusters that Keyturn creates: an adopted cluster has its own address ranges (line 6)",
				"masterNode: is only for clusters that Keyturn creates: the API servers exist already (line 7)",
				"nodePools: is only for clusters that Keyturn creates: Keyturn creates no nodes for this cluster (line 8)",
				"enableControlplaneV2: is only for clusters that Keyturn creates: the control plane exists already (line 9)",
				"enableAdvancedCluster: is only for clusters that Keyturn creates: an adopted cluster is not an advanced cluster " +
					"(line 10)",
			},
		},
		{name: "no infrastructure", kubeadm: "", want: []string{
			"infrastructure: names no cluster; write `kubeadm: {}` for the cluster that the controller runs in (line 4)",
		}},
		{name: "two ways", kubeadm: "{kubeconfigSecret: _a, kubeconfigPath: b, token: c}", want: []string{
			"infrastructure.kubeadm.token: unknown field (line 4)",
			"infrastructure.kubeadm.kubeconfigPath: cannot be combined with kubeconfigSecret: remove one of them (line 4)",
			`infrastructure.kubeadm.kubeconfigSecret: "_a" is not the name of a Secret (line 4)`,
		}},
		{name: "no path", kubeadm: "{certificatesDir: /etc/../pki}", want: []string{
			`infrastructure.kubeadm.certificatesDir: "/etc/../pki" is not the path of a directory, such as ` +
				"/etc/kubernetes/pki (line 4)",
		}},
		{name: "the path of something else", kubeadm: "{certificatesDir: /var/lib/keyturn}", want: []string{
			"infrastructure.kubeadm.certificatesDir: /var/lib/keyturn is a directory of other files (line 4)",
		}},
		{
			name: "keys", kubeadm: "{}",
			add: "ksaSigningKey: {source: floppy, algorithm: none, nodeRefresh: Replace, retire: WhenUnused, issuer: ftp://a}\n",
			want: []string{
				`ksaSigningKey.source: must be external or files, not "floppy" (line 5)`,
				`ksaSigningKey.algorithm: must be RS256 or ES256, not "none" (line 5)`,
				`ksaSigningKey.nodeRefresh: must be Evict or Wait, not "Replace": Keyturn does not make the nodes of this ` +
					"cluster (line 5)",
				"ksaSigningKey.issuer: must be a URL like https://example.com (line 5)",
			},
		},
		{name: "retire without ledgers", kubeadm: "{}", add: "ksaSigningKey: {retire: WhenUnused}\n", want: []string{
			"ksaSigningKey.retire: WhenUnused needs ksaSigningKey.source external: without a signer nobody knows which tokens " +
				"live (line 5)",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(strings.Replace(adopts, "{}", tt.kubeadm, 1) + tt.add))
			if err == nil {
				t.Fatal("the file is valid")
			}
			if diff := cmp.Diff(tt.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := Parse([]byte("apiVersion: v1\nkind: UserCluster\nname: prod\ninfrastructure:\n")); err == nil ||
		!strings.HasPrefix(err.Error(), "infrastructure: is empty; name kubeadm or clusterAPI") {
		t.Errorf("an empty infrastructure is %v", err)
	}
}

// TestKubeconfigPath keeps of a kubeconfig what reaches the cluster, and refuses one that reaches it in another way.
func TestKubeconfigPath(t *testing.T) {
	access := accessOf(t)
	file, err := access.File("whatever", "somebody")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("c.yaml", []byte(strings.Replace(adopts, "{}", "{kubeconfigPath: admin.conf}", 1)))
	write("admin.conf", file)
	c, err := Load(filepath.Join(dir, "c.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := c.Files()
	if err != nil || len(f.Warnings) > 0 {
		t.Fatalf("Files = %v, %v", f.Warnings, err)
	}
	kept, err := kubeconfig.Parse(f.Kubeconfig)
	if diff := cmp.Diff(access, kept); err != nil || diff != "" {
		t.Errorf("kubeconfig: %v (-want +got):\n%s", err, diff)
	}
	if got := c.Object(f).Spec.Infrastructure.Kubeadm.KubeconfigSecret; got != "prod-adopted-kubeconfig" {
		t.Errorf("the kubeconfig is in Secret %q", got)
	}

	write("admin.conf", []byte(strings.Replace(string(file), "    client-key-data:",
		"    token: "+private+"\n    client-key-data:", 1)))
	_, err = c.Files()
	if err == nil || !strings.Contains(err.Error(), "infrastructure.kubeadm.kubeconfigPath: "+dir) ||
		!strings.Contains(err.Error(), `"users[0].user.token" is not allowed`) ||
		!strings.HasSuffix(err.Error(), "(line 4)") {
		t.Errorf("a kubeconfig with a token is %v", err)
	}
	checkHidden(t, err.Error())
}

// accessOf is access to a cluster that there is not.
func accessOf(t *testing.T) kubeconfig.Access {
	t.Helper()
	key, keyPEM := newECKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return kubeconfig.Access{
		Server: "https://10.0.0.1:6443", CertificateAuthority: certificate, Certificate: certificate, Key: []byte(keyPEM),
	}
}

func TestCheckIssuer(t *testing.T) {
	if err := CheckIssuer(v1alpha1.DefaultIssuer); err != nil {
		t.Error(err)
	}
	if err := CheckIssuer("https://a.test/"); err == nil || err.Error() != "must not end with a slash" {
		t.Errorf("an issuer with a slash is %v", err)
	}
}
