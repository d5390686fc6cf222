package vectors

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var record = flag.String("record", "",
	"directory of Kubernetes binaries (kube-apiserver, kube-controller-manager, etcd): record kubernetes.json with them")

// TestRecord asks real API servers for tokens of every kind, signed with one key of each algorithm.
func TestRecord(t *testing.T) {
	if *record == "" {
		if len(Recordings()) != 3 {
			t.Error("kubernetes.json does not hold three recordings: run go test ./test/vectors -record DIRECTORY")
		}
		return
	}
	var all []Recording
	for _, name := range []string{"rsa-1", "p256-1", "p384-1"} {
		all = append(all, startCluster(t, name).recording(name))
	}
	*update = true
	check(t, "kubernetes.json", all)
}

const recordedIssuer = "https://kubernetes.default.svc.cluster.local"

// cluster is one etcd, kube-apiserver and kube-controller-manager.
type cluster struct {
	t      *testing.T
	dir    string
	url    string
	client *http.Client
}

func startCluster(t *testing.T, signing string) *cluster {
	t.Helper()
	insecure := &tls.Config{InsecureSkipVerify: true} // it made its certificate a second ago, on loopback
	c := &cluster{t: t, dir: t.TempDir(), client: &http.Client{
		Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: insecure},
	}}
	etcd, peer, api, manager := freePort(t), freePort(t), freePort(t), freePort(t)
	c.url = "https://127.0.0.1:" + api
	c.write("tokens.csv", "admin,admin,1,system:masters\n")
	c.write("kubeconfig", fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c",`+
		`"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],`+
		`"clusters":[{"name":"c","cluster":{"server":"%s","insecure-skip-tls-verify":true}}],`+
		`"users":[{"name":"u","user":{"token":"admin"}}]}`, c.url))

	c.run("etcd", "--data-dir="+c.path("etcd"), "--listen-client-urls=http://127.0.0.1:"+etcd,
		"--advertise-client-urls=http://127.0.0.1:"+etcd,
		"--listen-peer-urls=http://127.0.0.1:"+peer, "--initial-advertise-peer-urls=http://127.0.0.1:"+peer,
		"--initial-cluster=default=http://127.0.0.1:"+peer)
	args := []string{"--etcd-servers=http://127.0.0.1:" + etcd, "--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1", "--secure-port=" + api,
		"--cert-dir=" + c.path("certs"), "--service-cluster-ip-range=10.0.0.0/24",
		"--token-auth-file=" + c.path("tokens.csv"), "--authorization-mode=RBAC",
		"--disable-admission-plugins=ServiceAccount", "--service-account-issuer=" + recordedIssuer}
	for _, k := range Keys() {
		c.write(k.Name, k.Private)
		c.write(k.Name+".pub", k.Public)
		args = append(args, "--service-account-key-file="+c.path(k.Name+".pub"))
	}
	c.run("kube-apiserver", append(args, "--service-account-signing-key-file="+c.path(signing))...)
	c.eventually("API server to be ready", func() bool { _, err := c.do("GET", "/readyz", ""); return err == nil })
	c.run("kube-controller-manager", "--kubeconfig="+c.path("kubeconfig"),
		"--controllers=serviceaccount-token-controller,serviceaccount-controller", "--leader-elect=false",
		"--bind-address=127.0.0.1", "--secure-port="+manager, "--cert-dir="+c.path("certs"),
		"--service-account-private-key-file="+c.path(signing))
	return c
}

func (c *cluster) recording(signing string) Recording {
	c.t.Helper()
	const accounts, v1 = "/api/v1/namespaces/default/serviceaccounts", "/api/v1"
	c.eventually("service account to exist",
		func() bool { _, err := c.do("GET", accounts+"/default", ""); return err == nil })
	c.create(v1+"/nodes", `{"metadata":{"name":"node-1"}}`)
	c.create(v1+"/namespaces/default/pods",
		`{"metadata":{"name":"pod-1"},"spec":{"nodeName":"node-1","serviceAccountName":"default",`+
			`"containers":[{"name":"c","image":"c"}]}}`)
	c.create(v1+"/namespaces/default/secrets", `{"metadata":{"name":"secret-1"}}`)
	c.create(v1+"/namespaces/default/secrets",
		`{"metadata":{"name":"legacy","annotations":{"kubernetes.io/service-account.name":"default"}},`+
			`"type":"kubernetes.io/service-account-token"}`)

	request := func(name, spec string) RecordedToken {
		answer := c.create(accounts+"/default/token", `{"spec":{`+spec+`}}`)
		return RecordedToken{name, field(c.t, answer, "status", "token")}
	}
	bind := func(kind, name string) string {
		return fmt.Sprintf(`,"boundObjectRef":{"apiVersion":"v1","kind":"%s","name":"%s"}`, kind, name)
	}
	r := Recording{SigningKey: signing, Issuer: recordedIssuer, Tokens: []RecordedToken{
		request("not bound", `"expirationSeconds":3600`),
		request("pod", `"expirationSeconds":3600`+bind("Pod", "pod-1")),
		request("pod, as projected by default", `"expirationSeconds":3607`+bind("Pod", "pod-1")),
		request("secret", `"expirationSeconds":600`+bind("Secret", "secret-1")),
		request("node", `"expirationSeconds":600`+bind("Node", "node-1")),
		request("two audiences", `"audiences":["sts.example","https://vault.example/a?b=1&c=<2>"],"expirationSeconds":86400`),
		c.legacy(),
	}}
	r.JWKS, r.Discovery = c.get("/openid/v1/jwks"), c.get("/.well-known/openid-configuration")
	r.Version = field(c.t, c.get("/version"), "gitVersion")
	return r
}

// legacy waits until kube-controller-manager has filled in the Secret.
func (c *cluster) legacy() RecordedToken {
	c.t.Helper()
	var secret struct{ Data struct{ Token []byte } }
	c.eventually("legacy token", func() bool {
		err := json.Unmarshal([]byte(c.get("/api/v1/namespaces/default/secrets/legacy")), &secret)
		return err == nil && len(secret.Data.Token) > 0
	})
	return RecordedToken{"legacy", string(secret.Data.Token)}
}

func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) write(name, content string) {
	c.t.Helper()
	if err := os.WriteFile(c.path(name), []byte(content), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// run starts a program that ends with the test.
func (c *cluster) run(name string, args ...string) {
	c.t.Helper()
	log, err := os.Create(c.path(name + ".log"))
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.CommandContext(c.t.Context(), filepath.Join(*record, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = cmd.Wait() // the context of the test has killed it
		if c.t.Failed() {
			out, _ := os.ReadFile(log.Name())
			c.t.Logf("%s:\n%s", name, out[max(0, len(out)-3000):])
		}
	})
}

func (c *cluster) do(method, path, body string) (string, error) {
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer admin")
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	return string(answer), err
}

func (c *cluster) get(path string) string {
	c.t.Helper()
	answer, err := c.do("GET", path, "")
	if err != nil {
		c.t.Fatal(err)
	}
	return answer
}

func (c *cluster) create(path, body string) string {
	c.t.Helper()
	answer, err := c.do("POST", path, body)
	if err != nil {
		c.t.Fatal(err)
	}
	return answer
}

func (c *cluster) eventually(what string, done func() bool) {
	c.t.Helper()
	deadline, tick := time.After(time.Minute), time.Tick(100*time.Millisecond)
	for !done() {
		select {
		case <-deadline:
			c.t.Fatalf("waited a minute for the %s", what)
		case <-tick:
		}
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// field finds a string in JSON by the names of its members.
func field(t *testing.T, data string, names ...string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(data), &v); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	found, ok := v.(string)
	if !ok {
		t.Fatalf("no %s in the answer", strings.Join(names, "."))
	}
	return found
}
