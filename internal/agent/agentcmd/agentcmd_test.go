package agentcmd_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/agent"
	"github.com/keyturn/keyturn/internal/agent/agentcmd"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// binary is the program, built once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "keyturn-agent")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "keyturn-agent")
	cmd := exec.Command("go", "build", "-o", binary, "github.com/keyturn/keyturn/cmd/keyturn-agent")
	if out, err := cmd.CombinedOutput(); err != nil {
		panic(string(out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// pod is a pod of the agent on a node as kubeadm makes it.
type pod struct {
	t                          *testing.T
	key, pki, manifests, state string
	instance                   agent.Instance
	private                    []string // never in any output
	old, next                  keyPair
}

type keyPair struct{ private, public, kid string }

func (p *pod) newKey(algorithm string) keyPair {
	p.t.Helper()
	signer, err := token.GenerateKey(rand.Reader, algorithm)
	must(p.t, err)
	private, err := token.MarshalPrivateKey(signer)
	must(p.t, err)
	public, err := jwks.MarshalPublicKey(signer.Public())
	must(p.t, err)
	k, err := jwks.NewKey(signer.Public())
	must(p.t, err)
	p.private = append(p.private, strings.Split(string(private), "\n")[1])
	return keyPair{string(private), string(public), k.KeyID}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// start makes a node, and runs the init container of a pod on it.
func start(t *testing.T) *pod {
	dir := t.TempDir()
	p := &pod{t: t, key: dir + "/run/key", pki: dir + "/pki", manifests: dir + "/manifests", state: dir + "/keyturn"}
	for _, path := range []string{filepath.Dir(p.key), p.pki, p.manifests, p.state} {
		must(t, os.Mkdir(path, 0o755))
	}
	p.old, p.next = p.newKey(jwks.RS256), p.newKey(jwks.ES256)
	text, err := os.ReadFile("../manifest/testdata/kubeadm-1.36.yaml")
	must(t, err)
	must(t,
		os.WriteFile(p.pki+"/sa.pub", []byte(p.old.public), 0o644),
		os.WriteFile(p.pki+"/sa.key", []byte(p.old.private), 0o600),
		os.WriteFile(p.manifests+"/kube-apiserver.yaml", bytes.ReplaceAll(text, []byte("/etc/kubernetes/pki"), []byte(p.pki)),
			0o600))
	p.init()
	return p
}

func (p *pod) init() {
	p.t.Helper()
	message := filepath.Join(filepath.Dir(p.key), "termination-log")
	out, err := exec.Command(binary, "key", "--key-file="+p.key, "--termination-log="+message).CombinedOutput()
	if err != nil || len(out) > 0 {
		p.t.Fatalf("%v: %s", err, out)
	}
	public, err := os.ReadFile(message)
	must(p.t, err)
	info, err := os.Stat(p.key)
	must(p.t, err)
	if info.Mode().Perm() != 0o600 || len(public) != 44 {
		p.t.Errorf("key of mode %v, message %q", info.Mode(), public)
	}
	p.instance = agent.Instance{PodUID: "pod-1", PublicKey: agent.PublicKey(public)}
}

// exec does what a controller does by pods/exec.
func (p *pod) exec(o agent.Order) agent.Report {
	p.t.Helper()
	text, err := json.Marshal(o)
	must(p.t, err)
	cmd := exec.Command(binary, "apply", "--key-file="+p.key, "--pki-dir="+p.pki, "--manifest-dir="+p.manifests,
		"--state-dir="+p.state)
	cmd.Env = []string{agentcmd.PodUIDVariable + "=pod-1"}
	cmd.Stdin = bytes.NewReader(text)
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); err != nil {
		p.t.Fatalf("%v: %s", err, log.String())
	}
	for _, secret := range p.private {
		if strings.Contains(out.String()+log.String(), secret) {
			p.t.Error("a private key is in the output")
		}
	}
	var r agent.Report
	must(p.t, json.Unmarshal(out.Bytes(), &r))
	return r
}

func (p *pod) order(k rotation.Keys) agent.Order {
	p.t.Helper()
	o := agent.Order{Do: agent.Converge, Cluster: "uid", For: p.instance, Keys: k, Restart: agent.RestartMark(k, 1)}
	for version, key := range []keyPair{p.old, p.next} {
		sealed, err := agent.Seal([]byte(key.private), p.instance, "uid", version+1)
		must(p.t, err)
		o.Versions = append(o.Versions, agent.Version{Version: version + 1, Public: key.public, Private: sealed})
	}
	return o
}

// TestRotation adopts a node and rotates its keys with the real program.
func TestRotation(t *testing.T) {
	p := start(t)
	controller, err := agent.NewPrivateKey()
	must(t, err)
	sent := p.exec(agent.Order{Do: agent.Send, Cluster: "uid", For: p.instance, Recipient: controller.Public()})
	private, err := controller.OpenSent(sent.Sealed, "uid")
	if err != nil || string(private) != p.old.private {
		t.Fatalf("sa.key was not sent: %v", err)
	}
	if f := sent.Found; f.Owner != "" || f.Private != p.old.kid || !slices.Equal(f.Public, []string{p.old.kid}) {
		t.Errorf("found %+v", f)
	}
	for _, step := range []struct {
		keys   rotation.Keys
		public []string
		signs  string
	}{
		{rotation.Keys{Verify: []int{1, 2}, Sign: 1}, []string{p.old.kid, p.next.kid}, p.old.kid},
		{rotation.Keys{Verify: []int{1, 2}, Sign: 2}, []string{p.next.kid, p.old.kid}, p.next.kid},
		{rotation.Keys{Verify: []int{2}, Sign: 2}, []string{p.next.kid}, p.next.kid},
	} {
		r := p.exec(p.order(step.keys))
		if r.Answer != agent.Done || !slices.Equal(r.Found.Public, step.public) || r.Found.Private != step.signs {
			t.Fatalf("%v: %s %s, found %+v", step.keys, r.Answer, r.Message, r.Found)
		}
		if r.Found.Server.Restart != agent.RestartMark(step.keys, 1) || r.Found.Change != agent.Pending {
			t.Errorf("%v: the manifest has %q, the change is %q", step.keys, r.Found.Server.Restart, r.Found.Change)
		}
		if again := p.exec(p.order(step.keys)); again.Answer != agent.Done || len(again.Did) > 0 {
			t.Errorf("%v: a second time it did %q", step.keys, again.Did)
		}
		settle := agent.Order{Do: agent.Settle, Cluster: "uid", For: p.instance, Restart: agent.RestartMark(step.keys, 1)}
		if r := p.exec(settle); r.Answer != agent.Done || r.Found.Change != "" {
			t.Errorf("%v: settle: %s, the change is %q", step.keys, r.Answer, r.Found.Change)
		}
	}
	if r := p.exec(p.order(rotation.Keys{Verify: []int{1, 2}, Sign: 1})); r.Answer != agent.Stale {
		t.Errorf("a late order: %s %s", r.Answer, r.Message)
	}
	info, err := os.Stat(p.pki + "/sa.pub")
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("sa.pub has mode %v", info.Mode())
	}
}

// A pod that was started again has another key, and cannot open what was sealed to the one before.
func TestStartedAgain(t *testing.T) {
	p := start(t)
	late := p.order(rotation.Keys{Verify: []int{1, 2}, Sign: 1})
	p.init()
	if r := p.exec(late); r.Answer != agent.CannotOpen || r.Found != nil {
		t.Errorf("%s %s", r.Answer, r.Message)
	}
	late.For = p.instance
	if r := p.exec(late); r.Answer != agent.CannotOpen {
		t.Errorf("%s %s", r.Answer, r.Message)
	}
}

// TestRun starts the main process of the pod, which undoes a change whose API server is gone, and ends on SIGTERM.
func TestRun(t *testing.T) {
	p := start(t)
	path := p.manifests + "/kube-apiserver.yaml"
	text, err := os.ReadFile(path)
	must(t, err)
	// Nobody listens on the discard port of loopback.
	text = bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("host: 10.0.0.10"), []byte("host: 127.0.0.1")),
		[]byte("containerPort: 6443"), []byte("containerPort: 9"))
	must(t, os.WriteFile(path, text, 0o600))
	if r := p.exec(p.order(rotation.Keys{Verify: []int{1, 2}, Sign: 2})); r.Answer != agent.Done {
		t.Fatalf("%s %s", r.Answer, r.Message)
	}
	run := exec.Command(binary, "run", "--patience=1ns", "--pki-dir="+p.pki, "--manifest-dir="+p.manifests,
		"--state-dir="+p.state)
	var log bytes.Buffer
	run.Stderr = &log
	must(t, run.Start())
	tick := time.Tick(50 * time.Millisecond)
	observe := agent.Order{Do: agent.Observe, Cluster: "uid", For: p.instance}
	for r := p.exec(observe); r.Answer == agent.Busy || r.Found.Change != agent.Undone; r = p.exec(observe) {
		<-tick
	}
	must(t, run.Process.Signal(syscall.SIGTERM))
	if err := run.Wait(); err != nil {
		t.Errorf("it ended with %v: %s", err, log.String())
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, text) {
		t.Errorf("the manifest is not as before: %v", err)
	}
	if got, err := os.ReadFile(p.pki + "/sa.key"); err != nil || string(got) != p.old.private {
		t.Errorf("sa.key is not as before: %v", err)
	}
	for _, secret := range p.private {
		if strings.Contains(log.String(), secret) {
			t.Error("a private key is in the log")
		}
	}
}

func TestBadArguments(t *testing.T) {
	for _, c := range []struct {
		args []string
		in   string
		code int
		want string
	}{
		{nil, "", 2, "a subcommand is missing"},
		{[]string{"rotate"}, "", 2, `there is no subcommand "rotate"`},
		{[]string{"apply", "x"}, "", 2, `unexpected argument "x"`},
		{[]string{"apply", "--pki-dir=../pki"}, "", 2, "is not an absolute path"},
		{[]string{"key", "--pki-dir=/x"}, "", 2, "flag provided but not defined"},
		{[]string{"apply"}, `{"do":"Observe","later":1}`, 1, `unknown field "later"`},
		{[]string{"apply"}, strings.Repeat(" ", 1<<20+1), 1, "longer than"},
		{[]string{"apply"}, `{}`, 1, "KEYTURN_POD_UID is not set"},
		{[]string{"run", "--help"}, "", 0, "patience"},
	} {
		var out, log bytes.Buffer
		code := agentcmd.Run(t.Context(), c.args, agentcmd.IO{In: strings.NewReader(c.in), Out: &out, Err: &log})
		if code != c.code || !strings.Contains(log.String(), c.want) || out.Len() > 0 {
			t.Errorf("%q: code %d, %s%s", c.args, code, log.String(), out.String())
		}
	}
}
