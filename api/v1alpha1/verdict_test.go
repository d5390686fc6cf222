package v1alpha1_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	configfile "github.com/keyturn/keyturn/internal/config"
)

// input is what a configuration file and a UserCluster both say.
type input struct {
	version, service, pod  string
	issuer, endpoint, sts  string
	project                string
	publish                []string
	labels                 map[string]string
	taints                 []configfile.Taint
	replicas, surge, pools int
}

func validInput() input {
	return input{
		version: "1.36.4", service: "10.96.0.0/20", pod: "192.168.0.0/16", issuer: "https://oidc.test",
		project: "my-project-123", replicas: 2, surge: 1, pools: 1,
	}
}

// file is the configuration file, as JSON, which is YAML too.
func (in input) file(t *testing.T) []byte {
	t.Helper()
	var taints []map[string]string
	for _, taint := range in.taints {
		taints = append(taints, map[string]string{"key": taint.Key, "value": taint.Value, "effect": taint.Effect})
	}
	pools := []any{}
	for i := range in.pools {
		pools = append(pools, map[string]any{
			"name": poolName(i), "replicas": in.replicas, "labels": in.labels, "taints": taints,
			"updateStrategy": map[string]any{"rollingUpdate": map[string]any{"maxSurge": in.surge}},
		})
	}
	data, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "UserCluster", "name": "verdict", "gkeOnPremVersion": in.version + "-gke.1",
		"network":       map[string]any{"serviceCIDR": in.service, "podCIDR": in.pod},
		"nodePools":     pools,
		"ksaSigningKey": map[string]any{"issuer": in.issuer, "publish": in.publish},
		"gkeConnect": map[string]any{
			"projectID": in.project, "location": "global", "endpoint": in.endpoint, "stsEndpoint": in.sts,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func poolName(i int) string { return "pool-" + strings.Repeat("a", i+1) }

// object is the UserCluster that the file would ask for, if it were valid.
func (in input) object() *v1alpha1.UserCluster {
	uc := newCluster("verdict")
	local(uc).KubernetesVersion = "v" + in.version
	local(uc).Network = v1alpha1.Network{ServiceCIDR: in.service, PodCIDR: in.pod}
	uc.Spec.KSASigningKey.Issuer, uc.Spec.KSASigningKey.Publish = in.issuer, in.publish
	uc.Spec.GKEConnect = &v1alpha1.GKEConnect{
		ProjectID: in.project, Location: "global", Endpoint: in.endpoint, STSEndpoint: in.sts,
	}
	local(uc).NodePools = nil
	for i := range in.pools {
		pool := v1alpha1.NodePool{
			Name: poolName(i), Replicas: int32(in.replicas), MaxSurge: int32(in.surge), Labels: in.labels,
		}
		for _, t := range in.taints {
			pool.Taints = append(pool.Taints, corev1.Taint{Key: t.Key, Value: t.Value, Effect: corev1.TaintEffect(t.Effect)})
		}
		local(uc).NodePools = append(local(uc).NodePools, pool)
	}
	return uc
}

// check wants the configuration file and the API server to come to one verdict.
func (in input) check(t *testing.T, valid bool) {
	t.Helper()
	_, fileErr := configfile.Parse(in.file(t))
	apiErr := admin.Create(t.Context(), in.object(), client.DryRunAll)
	if (fileErr == nil) != valid {
		t.Errorf("as a file: valid = %v, want %v: %v", fileErr == nil, valid, fileErr)
	}
	if (apiErr == nil) != valid {
		t.Errorf("as a UserCluster: valid = %v, want %v: %v", apiErr == nil, valid, apiErr)
	}
}

// verdicts are values of one field.
type verdicts struct {
	name          string
	set           func(*input, string)
	good, refused []string
}

// TestOneVerdict has the same inputs judged by gkectl and by the API server: what one of them refuses, the other must
// not take, since it could neither work nor be changed later.
func TestOneVerdict(t *testing.T) {
	for _, v := range []verdicts{
		{"version", func(in *input, s string) { in.version = s },
			[]string{"1.36.0", "1.35.12"},
			[]string{"0.0.0", "1.34.0", "1.37.0", "2.36.0", "1.36", "1.36.04", "01.36.4", "1.36.4.5", "1.36.x", "1.36.4\n", ""}},
		{"service range", func(in *input, s string) { in.service = s },
			[]string{"10.96.0.0/12", "10.96.0.0/28", "172.16.0.0/20"},
			[]string{"", "garbage", "10.96.0.0", "10.96.0.0/11", "10.96.0.0/29", "10.96.0.1/20", "010.96.0.0/20",
				"10.96.0.0/020", "fd00::/20",
				"::ffff:10.96.0.0/116", "127.0.0.0/20", "169.254.0.0/20", "224.0.0.0/20", "239.240.0.0/20", "0.0.0.0/12",
				"192.168.16.0/20", "192.160.0.0/12", "10.96.0.0/20 "}},
		{"pod range", func(in *input, s string) { in.pod = s },
			[]string{"192.168.0.0/16", "192.168.0.0/22", "192.168.0.0/15", "192.0.0.0/8"},
			[]string{"", "garbage", "192.0.0.0/7", "192.168.0.0/25", "192.168.0.1/16", "fd00::/16", "127.0.0.0/16",
				"169.254.0.0/16",
				"224.0.0.0/16", "0.0.0.0/16", "10.96.0.0/16", "192.168.0.0/24"}},
		{"issuer", func(in *input, s string) { in.issuer = s }, goodURLs, badURLs},
		{"endpoint", func(in *input, s string) { in.endpoint = s }, append([]string{""}, goodURLs...), badURLs},
		{"STS", func(in *input, s string) { in.sts = s }, append([]string{""}, goodURLs...), badURLs},
		{"project", func(in *input, s string) { in.project = s },
			[]string{"my-project", "domain.com:a-project"},
			[]string{"", "a", "My-project", "my project", "my-project\n", "my-project-"}},
		{"label key", func(in *input, s string) { in.labels = map[string]string{s: "a"} },
			[]string{
				"a", "A.b_c-d", "example.com/a", "node.kubernetes.io/a", "x.kubelet.kubernetes.io/a", strings.Repeat("a", 63),
				"kubernetes.io.test/a",
			},
			[]string{"", "a,b", "a b", "a/b/c", "/a", "a/", "-a", "kubernetes.io/a", "x.kubernetes.io/a", "k8s.io/a",
				"keyturn.dev/a", "a.keyturn.dev/a",
				strings.Repeat("a", 64), strings.Repeat("a", 254) + "/a", "a\n"}},
		{"label value", func(in *input, s string) { in.labels = map[string]string{"a": s} },
			[]string{"", "a", "A.b_c-d", strings.Repeat("a", 63)},
			[]string{"a,b", "a b", "a/b", "-a", "a-", strings.Repeat("a", 64), "a\n"}},
		{"taint key", func(in *input, s string) { in.taints = []configfile.Taint{{Key: s, Effect: "NoSchedule"}} },
			[]string{"a", "example.com/a"}, []string{"", "a,b", "a/b/c"}},
		{"taint value", func(in *input, s string) {
			in.taints = []configfile.Taint{{Key: "a", Value: s, Effect: "NoSchedule"}}
		},
			[]string{"", "a"}, []string{"a,b", "a b"}},
		{"taint effect", func(in *input, s string) { in.taints = []configfile.Taint{{Key: "a", Effect: s}} },
			[]string{"NoSchedule", "PreferNoSchedule", "NoExecute"}, []string{"", "Never"}},
		{"second taint", func(in *input, s string) {
			in.taints = []configfile.Taint{{Key: "a", Value: "b", Effect: "NoSchedule"}, {Key: "a", Value: "c", Effect: s}}
		}, []string{"NoExecute"}, []string{"NoSchedule"}},
		{"publish", func(in *input, s string) { in.publish = []string{s} }, goodBuckets, badBuckets},
	} {
		for verdict, values := range map[bool][]string{true: v.good, false: v.refused} {
			for _, value := range values {
				t.Run(v.name+" "+value, func(t *testing.T) {
					in := validInput()
					v.set(&in, value)
					in.check(t, verdict)
				})
			}
		}
	}
}

var (
	goodURLs = []string{
		"https://a", "https://a.test", "https://a.test:6443", "https://127.0.0.1:6443/a", "https://[fd00::1]:6443",
		"https://a.test/b/c", "https://A.test/b%20c",
		"https://a.test/~b/c;d,e", "https://a.test/" + strings.Repeat("b", 497),
	}
	badURLs = []string{
		"http://a.test", "gopher://a.test", "a.test", "https://", "https:///a", "https://a.test/", "https://a.test//b",
		"https://a.test/b/", "https://a.test?b",
		"https://a.test#b", "https://u:p@a.test", "https://a.test/b c", "https://a.test/b\"c", "https://a.test/b\nc",
		"https://a.test\n", " https://a.test",
		"https://a.test/<b>", "https://a.test/%zz", "https://a.test/%", "https://a.test:port", "https://a.test:",
		"https://a b", "HTTPS://a.test", "https://a_b.test",
		"https://a.test/b\\c", "https://a.test/ü", "https://a.test/" + strings.Repeat("b", 498),
	}
	goodBuckets = []string{
		"file:///var/www/blue", "file://localhost/var/www",
		"file:///var/www?create_dir=true&prefix=blue/&no_tmp_dir=true&metadata=skip",
		"s3://bucket", "s3://my.bucket_1?region=eu-west-1&prefix=a/b/",
		"s3://b?endpoint=https://store.test:9000&use_path_style=1&profile=a",
		"s3://b?endpoint=http%3A%2F%2Fstore.test",
		"s3://b?request_checksum_calculation=when_required&response_checksum_validation=when_supported",
		"gs://bucket?prefix=clusters/blue/", "azblob://$web?storage_account=abc123&prefix=a/", "gs://bucket?",
	}
	badBuckets = []string{
		"", "bucket", "http://bucket", "s3:bucket", "s3://", "s3://bucket/path", "s3://bucket/", "s3://bu cket",
		"s3://-bucket", "s3://u@bucket", "s3://u:p@bucket",
		"s3://bucket#a", "s3://bucket#", "file://", "file:///", "file:////", "file:///.", "file:///a/..", "file:///a/../b",
		"file:///a/%2e%2e/b", "file:///a%2fb", "file:a", "file://host/a",
		"gs://b?region=a", "azblob://b?prefix=a", "s3://b?prefix=/a/", "s3://b?prefix=a//b/", "s3://b?prefix=../",
		"s3://b?prefix=a/./b/", "s3://b?prefix=a/%2e%2e/",
		"s3://b?prefix=/", "s3://b?prefix=", "s3://b?prefix=a/&prefix=b/", "s3://b?region", "s3://b?region=", "s3://b?a;b",
		"s3://b?region=%zz", "s3://b?region=%",
		"s3://b?use_path_style=yes", "s3://b?endpoint=ftp://a", "s3://b?endpoint=a.test", "s3://b?endpoint=https://",
		"s3://b?endpoint=https://u@a.test",
		"s3://b?endpoint=https://a.test?b", "s3://b?request_checksum_calculation=never", "azblob://b?storage_account=A",
		"azblob://b?storage_account=ab",
		"file:///a?metadata=keep", "file:///a?no_tmp_dir=false", "file:///a?create_dir=maybe", "gs://b\n",
		"gs://" + strings.Repeat("a", 508),
	}
)

func numbered(n int) map[string]string {
	labels := map[string]string{}
	for i := range n {
		labels[fmt.Sprintf("label-%d", i)] = "a"
	}
	return labels
}

func tainted(n int) (taints []configfile.Taint) {
	for key := range numbered(n) {
		taints = append(taints, configfile.Taint{Key: key, Effect: "NoExecute"})
	}
	return taints
}

// TestOneVerdictOnSizes is about numbers, and about fields that depend on each other.
func TestOneVerdictOnSizes(t *testing.T) {
	for name, test := range map[string]struct {
		set   func(*input)
		valid bool
	}{
		"most surge":         {func(in *input) { in.surge = 100 }, true},
		"too much surge":     {func(in *input) { in.surge = 101 }, false},
		"no surge":           {func(in *input) { in.surge = 0 }, false},
		"room for each node": {func(in *input) { in.pod, in.replicas, in.pools = "192.168.0.0/21", 3, 2 }, true},
		"no room for one": {
			func(in *input) { in.pod, in.replicas, in.surge, in.pools = "192.168.0.0/21", 3, 2, 2 }, false,
		},
		"no room for most": {func(in *input) { in.replicas, in.surge, in.pools = 100, 1, 3 }, false},
		"no nodes": {
			func(in *input) { in.pod, in.replicas, in.surge, in.pools = "192.168.0.0/24", 0, 100, 32 }, true,
		},
		"most labels":     {func(in *input) { in.labels = numbered(64) }, true},
		"too many labels": {func(in *input) { in.labels = numbered(65) }, false},
		"most taints":     {func(in *input) { in.taints = tainted(32) }, true},
		"too many taints": {func(in *input) { in.taints = tainted(33) }, false},
		"no pools":        {func(in *input) { in.pod, in.pools = "192.168.0.0/24", 0 }, true},
		"publish with default issuer": {
			func(in *input) { in.publish, in.issuer = []string{"s3://a"}, v1alpha1.DefaultIssuer }, false,
		},
		"publish twice":         {func(in *input) { in.publish = []string{"s3://a", "s3://a"} }, false},
		"publish at most":       {func(in *input) { in.publish = places(8) }, true},
		"publish at too many":   {func(in *input) { in.publish = places(9) }, false},
		"one good URL, one bad": {func(in *input) { in.publish = []string{"s3://a", "s3://a/b"} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			in := validInput()
			test.set(&in)
			in.check(t, test.valid)
		})
	}
}
