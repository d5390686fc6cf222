package controller_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/webhooks"
)

// TestHangingWebhook has a user cluster in which a webhook for Secrets never answers. The refresh of its legacy tokens
// ends by its own deadline, does not wait for the API server to give the webhook up, and names it.
func TestHangingWebhook(t *testing.T) {
	k, err := keystore.Generate(rand.Reader, 1, "ES256")
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k.Signer)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(k.Signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	file := func(kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	user, err := kubernetes.NewForConfig(kubetest.Start(t, kubetest.Options{APIServerArgs: map[string][]string{
		"service-account-signing-key-file": {file("PRIVATE KEY", private)},
		"service-account-key-file":         {file("PUBLIC KEY", public)},
	}}))
	if err != nil {
		t.Fatal(err)
	}
	hangOnSecrets(t, user)
	account, err := user.CoreV1().ServiceAccounts("default").Create(t.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "robot", Annotations: map[string]string{
			corev1.ServiceAccountNameKey: account.Name, corev1.ServiceAccountUIDKey: string(account.UID),
		}},
		Type: corev1.SecretTypeServiceAccountToken, Data: map[string][]byte{"token": []byte("e30.e30.x")},
	}
	if _, err := user.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	tokens := controller.NewLegacyTokens(func(context.Context, *v1alpha1.UserCluster) (kubernetes.Interface, error) {
		return user, nil
	})
	uc := &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Name: "blue", UID: "blue"}}
	legacy, _, err := tokens.Refresh(t.Context(), uc, k)
	if err != nil || legacy.Proven != 0 || !strings.Contains(legacy.Waiting, "webhook "+kubetest.WebhookName) {
		t.Errorf("the refresh ended with %v, and waits for %q: want the webhook to be named", err, legacy.Waiting)
	}
}

// hangOnSecrets makes a webhook for changes of Secrets that never answers.
func hangOnSecrets(t *testing.T, user kubernetes.Interface) {
	t.Helper()
	secrets := user.CoreV1().Secrets("default")
	probe := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "probe"}}
	probe, err := secrets.Create(t.Context(), probe, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rule := admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{admissionv1.Update},
		Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"secrets"}},
	}
	kubetest.Hang(t, user, admissionv1.Fail, rule, func(ctx context.Context) {
		_, _ = secrets.Update(ctx, probe, metav1.UpdateOptions{})
	})
}

// swallow returns the address of a server that takes connections and never says anything.
func swallow(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener.Addr().String()
}

// silentNodes never answer.
type silentNodes struct{ nodes.Adapter }

func (silentNodes) Observe(ctx context.Context, _ nodes.Keys) (nodes.State, error) {
	<-ctx.Done()
	return nodes.State{}, ctx.Err()
}

// TestDeathsWhileTheAPIIsSilent has an API server that swallows all packets, and nodes and a destination that do not
// answer. What dies meanwhile of the control plane is brought back.
func TestDeathsWhileTheAPIIsSilent(t *testing.T) {
	w := newWorld(t)
	silent := false
	address := swallow(t)
	prover := &controlplane.Prover{}
	w.reconciler.Prove = func(ctx context.Context, q controlplane.Question) (controlplane.Proof, error) {
		if silent && strings.HasSuffix(q.Config.Host, "cp-0") {
			q.Config = &rest.Config{Host: "https://" + address, TLSClientConfig: rest.TLSClientConfig{ServerName: "cp-0"}}
			return prover.Prove(ctx, q)
		}
		return w.prove(ctx, q)
	}
	w.reconciler.Nodes = func(uc *v1alpha1.UserCluster) (nodes.Adapter, error) {
		if silent {
			return silentNodes{pools{w.site, uc}}, nil
		}
		return pools{w.site, uc}, nil
	}
	blue := w.settled("blue", threeServers)
	silent = true
	w.with(blue, func(c *userCluster) {
		c.servers[1].stop()
		c.manager.Running, c.manager.Ready = 0, false
	})
	serves := func() (yes bool) {
		w.with(blue, func(c *userCluster) { yes = c.servers[1].Ready && c.manager.Ready })
		return yes
	}
	for range 6 {
		if uc := w.round(blue); !strings.Contains(uc.Status.KSASigningKey.WaitingFor, "cp-") {
			t.Errorf("it waits for %q", uc.Status.KSASigningKey.WaitingFor)
		}
		if serves() {
			break
		}
	}
	if !serves() {
		t.Error("what died is not brought back")
	}
	silent = false
	w.until(blue, isSettled)
}

// TestWebhookKeepsFromProof has webhooks keep every API server from being proven. They are named, and after some rounds
// somebody must act; what dies of the control plane is brought back meanwhile.
func TestWebhookKeepsFromProof(t *testing.T) {
	w := newWorld(t)
	dead := false
	w.reconciler.Prove = func(ctx context.Context, q controlplane.Question) (controlplane.Proof, error) {
		if dead {
			err := apierrors.NewInternalError(errors.New(`failed calling webhook "dead.keyturn.test"`))
			return controlplane.Proof{}, webhooks.Explain(ctx, nil, err, webhooks.Proof...)
		}
		return w.prove(ctx, q)
	}
	blue := w.settled("blue", threeServers)
	dead = true
	w.with(blue, func(c *userCluster) { c.servers[1].stop() })
	blocked := func(uc *v1alpha1.UserCluster) bool {
		ready := meta.FindStatusCondition(uc.Status.Conditions, v1alpha1.ConditionReady)
		return ready.Reason == v1alpha1.ReasonRotationBlocked && strings.Contains(ready.Message, "dead.keyturn.test")
	}
	if uc := w.round(blue); blocked(uc) {
		t.Error("it is blocked after one round")
	}
	w.until(blue, blocked)
	w.until(blue, func(*v1alpha1.UserCluster) (yes bool) {
		w.with(blue, func(c *userCluster) { yes = c.servers[1].Ready })
		return yes
	})
	dead = false
	w.until(blue, isSettled)
}

// gate lets a test stop rounds where they open the control plane, of the clusters that it names.
type gate struct {
	entered, release chan struct{}
	of               func(*v1alpha1.UserCluster) bool
}

func (w *world) gate(of func(*v1alpha1.UserCluster) bool) *gate {
	g := &gate{entered: make(chan struct{}, 10), release: make(chan struct{}), of: of}
	w.reconciler.ControlPlane = func(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) {
		if g.of(uc) {
			g.entered <- struct{}{}
			<-g.release
		}
		return w.open(uc)
	}
	return g
}

func (w *world) start(key client.ObjectKey) <-chan ctrl.Result {
	done := make(chan ctrl.Result, 1)
	go func() {
		result, err := w.reconciler.Reconcile(w.Context(), ctrl.Request{NamespacedName: key})
		if err != nil {
			w.Error(err)
		}
		done <- result
	}()
	return done
}

// TestSlowClusters has one more clusters whose last rounds were slow than may have one at once. Those that may have
// rounds that do not end: the last one asks again later. A cluster that answers does not wait for them.
func TestSlowClusters(t *testing.T) {
	w := newWorld(t)
	w.reconciler.Options.Workers = 1
	quick := w.settled("quick")
	var slow []client.ObjectKey
	for _, name := range []string{"slow-1", "slow-2", "slow-3"} {
		slow = append(slow, w.settled(name))
	}
	isSlow := func(uc *v1alpha1.UserCluster) bool { return uc.Name != quick.Name }
	var ahead atomic.Int64
	w.reconciler.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	w.reconciler.ControlPlane = func(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) {
		if isSlow(uc) {
			ahead.Add(int64(5 * time.Second))
		}
		return w.open(uc)
	}
	for _, key := range slow {
		w.round(key)
	}
	g := w.gate(isSlow)
	last, others := slow[0], slow[1:]
	var rounds []<-chan ctrl.Result
	for _, key := range others {
		rounds = append(rounds, w.start(key))
		<-g.entered
	}
	select {
	case result := <-w.start(last):
		if result.RequeueAfter == 0 {
			t.Error("the last slow cluster does not ask again")
		}
	case <-g.entered:
		t.Error("the last slow cluster has a round too")
	}
	w.round(quick)
	close(g.release)
	for _, round := range rounds {
		<-round
	}
	<-w.start(last)
	if len(g.entered) != 1 {
		t.Error("the last slow cluster has no round once the others have ended")
	}
}

// TestReadiness wants a round that does not return to be noticed.
func TestReadiness(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	var ahead atomic.Int64
	w.reconciler.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	g := w.gate(func(*v1alpha1.UserCluster) bool { return true })
	round := w.start(blue)
	<-g.entered
	if err := w.reconciler.Check(nil); err != nil {
		t.Errorf("while a round runs: %v", err)
	}
	ahead.Store(int64(4 * controller.DefaultRoundTimeout))
	if err := w.reconciler.Check(nil); err == nil || !strings.Contains(err.Error(), blue.String()) {
		t.Errorf("after four timeouts: %v, want an error that names %s", err, blue)
	}
	close(g.release)
	<-round
	if err := w.reconciler.Check(nil); err != nil {
		t.Errorf("after it returned: %v", err)
	}
}

// TestFailingRoundsAreCounted wants the metrics to tell a cluster whose rounds fail.
func TestFailingRoundsAreCounted(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	last := w.metric("keyturn_round_last_success_timestamp_seconds", blue)[""]
	if failed := w.metric("keyturn_round_failed", blue)[""]; failed != 0 || last == 0 {
		t.Errorf("of a settled cluster, failed is %v and the last success %v", failed, last)
	}
	w.with(blue, func(c *userCluster) { c.hidden = true })
	w.failing = true
	w.round(blue)
	if failed := w.metric("keyturn_round_failed", blue)[""]; failed != 1 {
		t.Errorf("after a round that failed, failed is %v", failed)
	}
	w.with(blue, func(c *userCluster) { c.hidden = false })
	w.until(blue, isSettled)
	if failed := w.metric("keyturn_round_failed", blue)[""]; failed != 0 {
		t.Errorf("after a good round, failed is %v", failed)
	}
}

// TestSettledPause wants settled clusters to be proven at times of their own, around the interval.
func TestSettledPause(t *testing.T) {
	w := newWorld(t)
	w.reconciler.Options.SettledInterval = time.Hour
	blue := w.settled("blue")
	seen := map[time.Duration]bool{}
	for range 5 {
		result := <-w.start(blue)
		if result.RequeueAfter < 48*time.Minute || result.RequeueAfter > 72*time.Minute {
			t.Errorf("the next round is in %s, want about an hour", result.RequeueAfter)
		}
		seen[result.RequeueAfter] = true
	}
	if len(seen) < 2 {
		t.Errorf("each pause is %v", seen)
	}
}
