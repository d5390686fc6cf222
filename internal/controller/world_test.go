package controller_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/keystore/keystoretest"
)

// maxRounds is far more than anything takes.
const maxRounds = 400

// world is a namespace of the admin cluster, the site of its user clusters, and the controller between them.
type world struct {
	*testing.T
	*site
	namespace string
	// config is how the controller reaches the admin cluster; controller is its client, and keys its store, whose writes
	// can be made to fail.
	config     *rest.Config
	controller client.Client
	keys       *keystoretest.Faulty
	recorder   *recorder
	reconciler *controller.Reconciler
	// failing means that rounds may end with an error.
	failing bool
	// losing means that the store may lack keys that are in use.
	losing bool
	// passed is how far the controller's clock is ahead: it hurries while nothing but time has to pass.
	passed time.Duration
	// shown is all that the controller let anybody see: its log, events, errors and each status.
	shown *transcript
}

func newWorld(t *testing.T) *world { return newFaultyWorld(t, controllerConfig) }

// newFaultyWorld has a controller that reaches the admin cluster by config, but for its events.
func newFaultyWorld(t *testing.T, config *rest.Config) *world {
	t.Helper()
	c, err := newClient(config)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		T: t, site: newSite(t), namespace: newNamespace(t), config: config, controller: c,
		keys: &keystoretest.Faulty{}, shown: &transcript{},
	}
	w.recorder = newRecorder(t, c.Scheme(), w.shown)
	w.restart()
	t.Cleanup(w.checkSecrecy)
	return w
}

func newNamespace(t *testing.T) string {
	t.Helper()
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	if err := admin.Create(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return n.Name
}

// restart replaces the controller by one that remembers nothing.
func (w *world) restart() {
	w.Helper()
	keys, err := keystore.NewSecrets(w.config)
	if err != nil {
		w.Fatal(err)
	}
	w.keys.Store = keys
	w.reconciler = &controller.Reconciler{
		Client: w.controller, Keys: w.keys,
		ControlPlane: w.open, Prove: w.prove, Nodes: w.openPools, Tokens: legacyTokens{w.site},
		Recorder: w.recorder, Log: slog.New(slog.NewTextHandler(w.shown, nil)),
		Now: func() time.Time { return time.Now().Add(w.passed) },
	}
}

// create makes a UserCluster of this world's namespace.
func (w *world) create(name string, change ...func(*v1alpha1.UserCluster)) client.ObjectKey {
	w.Helper()
	uc := newUserCluster(client.ObjectKey{Namespace: w.namespace, Name: name})
	for _, c := range change {
		c(uc)
	}
	if err := admin.Create(w.Context(), uc); err != nil {
		w.Fatal(err)
	}
	return client.ObjectKeyFromObject(uc)
}

// settled makes a UserCluster and lets the controller create the cluster.
func (w *world) settled(name string, change ...func(*v1alpha1.UserCluster)) client.ObjectKey {
	w.Helper()
	key := w.create(name, change...)
	w.until(key, isSettled)
	return key
}

func (w *world) get(key client.ObjectKey) *v1alpha1.UserCluster {
	w.Helper()
	uc := &v1alpha1.UserCluster{}
	if err := admin.Get(w.Context(), key, uc); err != nil {
		w.Fatal(err)
	}
	return uc
}

// rotate raises the wanted version as an administrator does.
func (w *world) rotate(key client.ObjectKey) {
	w.Helper()
	if err := w.raise(key); err != nil {
		w.Fatal(err)
	}
}

func (w *world) raise(key client.ObjectKey) error {
	uc := w.get(key)
	uc.Spec.KSASigningKey.Version++
	return admin.Update(w.Context(), uc)
}

// delete deletes a UserCluster as an administrator does.
func (w *world) delete(key client.ObjectKey) {
	w.Helper()
	if err := admin.Delete(w.Context(), w.get(key)); err != nil {
		w.Fatal(err)
	}
}

// round reconciles once, and returns the UserCluster as it is then; nil when it is gone.
func (w *world) round(key client.ObjectKey) *v1alpha1.UserCluster {
	w.Helper()
	result, roundErr := w.reconciler.Reconcile(w.Context(), ctrl.Request{NamespacedName: key})
	if roundErr != nil {
		fmt.Fprintln(w.shown, roundErr)
		if !w.failing {
			w.Fatalf("reconciling %s: %v", key, roundErr)
		}
	}
	uc := &v1alpha1.UserCluster{}
	err := admin.Get(w.Context(), key, uc)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.Fatal(err)
	}
	if roundErr == nil && result.IsZero() {
		w.Errorf("reconciling %s is over while the cluster exists", key)
	}
	if strings.Contains(uc.Status.KSASigningKey.WaitingFor, ", at the latest at ") {
		w.passed += 20 * time.Second
	}
	w.show(uc.Status)
	if !w.losing {
		w.checkStored(key)
	}
	return uc
}

// until reconciles until the UserCluster is as wanted, and calls each after every round.
func (w *world) until(
	key client.ObjectKey, done func(*v1alpha1.UserCluster) bool, each ...func(*v1alpha1.UserCluster),
) *v1alpha1.UserCluster {
	w.Helper()
	var last *v1alpha1.UserCluster
	for range maxRounds {
		last = w.round(key)
		for _, f := range each {
			f(last)
		}
		if done(last) {
			return last
		}
	}
	w.Fatalf("%s is not done after %d rounds: %+v", key, maxRounds, last.Status)
	return nil
}

func isGone(uc *v1alpha1.UserCluster) bool { return uc == nil }

// isSettled reports whether a cluster is as its latest spec wants it.
func isSettled(uc *v1alpha1.UserCluster) bool {
	ready := condition(uc, v1alpha1.ConditionReady)
	return ready.Status == metav1.ConditionTrue && ready.ObservedGeneration == uc.Generation &&
		uc.Status.ObservedGeneration == uc.Generation
}

// isBlocked reports whether somebody must act.
func isBlocked(uc *v1alpha1.UserCluster) bool {
	return condition(uc, v1alpha1.ConditionReady).Reason == v1alpha1.ReasonRotationBlocked
}

func objectKey(uc *v1alpha1.UserCluster) client.ObjectKey { return client.ObjectKeyFromObject(uc) }

func inStep(step string) func(*v1alpha1.UserCluster) bool {
	return func(uc *v1alpha1.UserCluster) bool { return uc.Status.KSASigningKey.Step == step }
}

func condition(uc *v1alpha1.UserCluster, kind string) metav1.Condition {
	if c := meta.FindStatusCondition(uc.Status.Conditions, kind); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// wantCondition compares what a condition says, apart from when.
func (w *world) wantCondition(
	uc *v1alpha1.UserCluster, kind string, is metav1.ConditionStatus, reason, message string,
) {
	w.Helper()
	c := condition(uc, kind)
	if c.Status != is || c.Reason != reason || c.Message != message {
		w.Errorf("condition %s is %s, %s: %s\nwant %s, %s: %s", kind, c.Status, c.Reason, c.Message, is, reason, message)
	}
}

// stored returns the key versions in the store.
func (w *world) stored(key client.ObjectKey) (versions []int) {
	w.Helper()
	for _, s := range w.keySecrets(key) {
		version := 0
		if _, err := fmt.Sscanf(s.Name, key.Name+"-ksa-signing-key-%d", &version); err != nil {
			w.Fatalf("Secret %s: %v", s.Name, err)
		}
		versions = append(versions, version)
	}
	return versions
}

func (w *world) keySecrets(key client.ObjectKey) []corev1.Secret {
	w.Helper()
	list := &corev1.SecretList{}
	err := admin.List(w.Context(), list, client.InNamespace(key.Namespace),
		client.MatchingLabels{v1alpha1.LabelCluster: key.Name}, client.MatchingFields{"type": v1alpha1.SecretTypeSigningKey})
	if err != nil {
		w.Fatal(err)
	}
	for _, s := range list.Items {
		w.shown.hide(s.Data["private.pem"])
	}
	return list.Items
}

// kubeconfig returns what the administrator finds in the kubeconfig Secret; empty without one.
func (w *world) kubeconfig(key client.ObjectKey) string {
	w.Helper()
	s := &corev1.Secret{}
	name := client.ObjectKey{Namespace: key.Namespace, Name: v1alpha1.KubeconfigSecretName(key.Name)}
	if err := client.IgnoreNotFound(admin.Get(w.Context(), name, s)); err != nil {
		w.Fatal(err)
	}
	return string(s.Data[v1alpha1.KubeconfigKey])
}

// checkStored wants every key version that anything of the cluster uses or keeps to be in the store.
func (w *world) checkStored(key client.ObjectKey) {
	w.Helper()
	stored := w.stored(key)
	w.with(key, func(c *userCluster) {
		for version := range 10 {
			_, kept := c.disk[version]
			if version > 0 && (kept || c.uses(version)) && !slices.Contains(stored, version) {
				w.Errorf("key version %d is in use and not stored", version)
			}
		}
	})
}

// wantOnly wants a key version to be the only one anywhere, and the status to say so.
func (w *world) wantOnly(key client.ObjectKey, version int) {
	w.Helper()
	if stored := w.stored(key); !slices.Equal(stored, []int{version}) {
		w.Errorf("key versions %v are stored, want %d only", stored, version)
	}
	uc := w.get(key)
	w.with(key, func(c *userCluster) {
		for _, s := range c.servers {
			if !s.Ready || !slices.Equal(s.accepts, []string{uc.Status.KSASigningKey.Keys[0].KeyID}) || s.signs != s.accepts[0] {
				w.Errorf("%s signs with %s and accepts %s, ready %v; want key version %d", s.Name, s.signs, s.accepts, s.Ready,
					version)
			}
		}
		for _, n := range c.nodes {
			if n.KeyVersion != version || !n.Ready {
				w.Errorf("%+v is left, want ready nodes of key version %d", n, version)
			}
		}
		old := slices.ContainsFunc(c.tokens, func(v int) bool { return v != version })
		if len(c.disk) != 1 || c.manager.Running != version || old || len(c.nodes) != 2 {
			w.Errorf("%d keys on disk, %+v, tokens %v, %d nodes; want key version %d", len(c.disk), c.manager, c.tokens,
				len(c.nodes), version)
		}
	})
	w.wantCondition(uc, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady,
		"The cluster matches its spec")
	w.wantCondition(uc, v1alpha1.ConditionKSASigningKeyRotation, metav1.ConditionTrue, v1alpha1.ReasonRotationCompleted,
		fmt.Sprintf(`{"tokenVersion":%d,"privateKeyVersion":%[1]d,"publicKeyVersions":[%[1]d]}`, version))
}

// events returns what the controller told of a cluster, in its order, once the API server has each of them.
func (w *world) events(key client.ObjectKey) []string {
	w.Helper()
	var told []string
	want := w.recorder.of(key)
	err := wait.PollUntilContextTimeout(w.Context(), 20*time.Millisecond, 5*time.Minute, true,
		func(ctx context.Context) (bool, error) {
			list := &eventsv1.EventList{}
			if err := admin.List(ctx, list, client.InNamespace(key.Namespace)); err != nil {
				return false, err
			}
			told = nil
			for _, e := range list.Items {
				if e.Regarding.Name == key.Name && e.Regarding.Kind == "UserCluster" {
					told = append(told, fmt.Sprintf("%s %s %s: %s", e.Type, e.Action, e.Reason, e.Note))
				}
			}
			return slices.Equal(slices.Sorted(slices.Values(told)), slices.Sorted(slices.Values(want))), nil
		})
	if err != nil {
		w.Fatalf("the API server has the events\n%s\nwant\n%s\n(%v)", strings.Join(told, "\n"), strings.Join(want, "\n"), err)
	}
	return want
}

// metric returns the value of each series of a metric about a cluster, by its remaining labels.
func (w *world) metric(name string, key client.ObjectKey) map[string]float64 {
	w.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		w.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), name) {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["namespace"] == key.Namespace && labels["name"] == key.Name {
				values[labels["step"]+labels["version"]+labels["kind"]] = m.GetGauge().GetValue()
			}
		}
	}
	return values
}

func (w *world) show(what any) {
	w.Helper()
	if err := json.NewEncoder(w.shown).Encode(what); err != nil {
		w.Fatal(err)
	}
}

// checkSecrecy looks for every private key of this world in all that was shown.
func (w *world) checkSecrecy() {
	shown := w.shown.String()
	hidden := w.shown.secrets()
	if len(hidden) == 0 {
		w.Error("no private key was ever stored")
	}
	for _, line := range hidden {
		if strings.Contains(shown, line) {
			w.Error("a line of a private key was shown in a log, an event, an error or a status")
		}
	}
	if strings.Contains(shown, "-----BEGIN") {
		w.Error("a PEM block was shown in a log, an event, an error or a status")
	}
}

// transcript gathers text from several goroutines, and what must not be in it.
type transcript struct {
	mu     sync.Mutex
	text   bytes.Buffer
	hidden []string
}

func (s *transcript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// hide adds the lines of a PEM block, apart from its frame and short ends, to what must not be shown.
func (s *transcript) hide(block []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(string(block)) {
		if line = strings.TrimSpace(line); len(line) > 16 && !strings.HasPrefix(line, "-----") {
			s.hidden = append(s.hidden, line)
		}
	}
}

func (s *transcript) secrets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.hidden)
}

// recorder sends events to the admin cluster, and remembers which: they arrive there at some later time.
type recorder struct {
	events.EventRecorder
	shown *transcript

	mu   sync.Mutex
	told map[client.ObjectKey][]string
}

func newRecorder(t *testing.T, scheme *runtime.Scheme, shown *transcript) *recorder {
	t.Helper()
	c, err := kubernetes.NewForConfig(controllerConfig)
	if err != nil {
		t.Fatal(err)
	}
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: c.EventsV1()})
	if err := broadcaster.StartRecordingToSinkWithContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broadcaster.Shutdown)
	return &recorder{
		EventRecorder: broadcaster.NewRecorder(scheme, "keyturn-controller"), shown: shown,
		told: map[client.ObjectKey][]string{},
	}
}

// Eventf implements events.EventRecorder.
func (r *recorder) Eventf(regarding, related runtime.Object, kind, reason, action, note string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := fmt.Sprintf("%s %s %s: %s", kind, action, reason, fmt.Sprintf(note, args...))
	fmt.Fprintln(r.shown, text)
	if uc, ok := regarding.(*v1alpha1.UserCluster); ok {
		key := client.ObjectKeyFromObject(uc)
		r.told[key] = append(r.told[key], text)
	}
	r.EventRecorder.Eventf(regarding, related, kind, reason, action, note, args...)
}

func (r *recorder) of(key client.ObjectKey) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.told[key])
}
