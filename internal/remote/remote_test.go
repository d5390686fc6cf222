package remote_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/remote"
	"github.com/keyturn/keyturn/internal/remote/remotetest"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

func TestClusterCrossesWhole(t *testing.T) {
	var got *v1alpha1.UserCluster
	s := &remote.Server{ControlPlane: func(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) {
		got = uc
		return plane{observe: func(context.Context) (state controlplane.State, err error) { return state, nil }}, nil
	}}
	c := remotetest.Serve(t, s)
	uc := cluster()
	uc.Annotations = map[string]string{"example.com/a": "b"}
	uc.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}
	uc.Spec.KSASigningKey.Version = 3
	uc.Status.Infrastructure.Local = &v1alpha1.LocalInfrastructureStatus{Home: "home"}
	if _, err := c.ControlPlane(uc).Observe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if uc.ManagedFields == nil {
		t.Error("the caller's cluster was changed")
	}
	uc.ManagedFields = nil
	if !reflect.DeepEqual(got, uc) {
		t.Errorf("got %+v, want %+v", got, uc)
	}
}

func TestStateAndTargetCross(t *testing.T) {
	keys := controlplane.Keys{Verify: []int{1, 2}, Sign: 1, External: true}
	want := controlplane.State{
		Presence: rotation.PresencePresent, Home: "home", Endpoint: "https://a", Waiting: "etcd", Held: []int{1, 2},
		Servers:            []controlplane.Server{{Name: "a", Leaving: true, Configured: keys, Waiting: "b"}},
		ControllerManagers: []controlplane.ControllerManager{{Name: "c", Configured: 1, Ready: true}}, Bootstrap: keys,
	}
	target := controlplane.Target{
		Keys: keys, Next: "a", Live: true, Bootstrap: true, DropForeign: []string{"a"}, ControllerManagerSign: 1,
	}
	given := []keystore.KeyPair{testKey(t, 1, jwks.RS256), testKey(t, 2, jwks.ES256)}
	c := remotetest.Serve(t, serving(plane{
		observe: func(context.Context) (controlplane.State, error) { return want, nil },
		converge: func(_ context.Context, got controlplane.Target, keys []keystore.KeyPair) error {
			if !reflect.DeepEqual(got, target) || len(keys) != len(given) {
				t.Errorf("got %+v and %v", got, keys)
			}
			for i := range keys {
				if keys[i].String() != given[i].String() || !bytes.Equal(privateOf(t, keys[i]), privateOf(t, given[i])) {
					t.Errorf("got %s, want %s", keys[i], given[i])
				}
			}
			return nil
		},
	}))
	if got, err := c.ControlPlane(cluster()).Observe(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := c.ControlPlane(cluster()).Converge(t.Context(), target, given); err != nil {
		t.Error(err)
	}
}

// privateOf is the private key of a version as it crosses.
func privateOf(t *testing.T, k keystore.KeyPair) []byte {
	t.Helper()
	private, err := token.MarshalPrivateKey(k.Signer)
	if err != nil {
		t.Fatal(err)
	}
	return private
}

func TestErrorsCross(t *testing.T) {
	sentinels := []error{
		controlplane.ErrStale, context.DeadlineExceeded, context.Canceled, fs.ErrNotExist, controlplane.ErrNoLedger,
	}
	for name, c := range map[string]struct {
		err error
		is  []error
	}{
		"of no kind": {errors.New("no haproxy on this host"), nil},
		"with a hint": {
			fmt.Errorf("balancing: %w", hint.Errorf("install haproxy", "it is missing: %w", fs.ErrNotExist)),
			[]error{fs.ErrNotExist},
		},
		"stale":     {fmt.Errorf("converging: %w", controlplane.ErrStale), sentinels[:1]},
		"no ledger": {controlplane.ErrNoLedger, sentinels[4:]},
		"deadline":  {context.DeadlineExceeded, sentinels[1:2]},
		"joined": {
			errors.Join(fmt.Errorf("a: %w", fs.ErrNotExist), controlplane.ErrStale),
			[]error{fs.ErrNotExist, controlplane.ErrStale},
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := remotetest.Serve(t, serving(plane{
				converge: func(context.Context, controlplane.Target, []keystore.KeyPair) error { return c.err },
			}))
			err := client.ControlPlane(cluster()).Converge(t.Context(), controlplane.Target{}, nil)
			if err == nil || err.Error() != c.err.Error() {
				t.Errorf("got %v, want %v", err, c.err)
			}
			if got, want := hint.Of(err), hint.Of(c.err); got != want {
				t.Errorf("its hint is %q, want %q", got, want)
			}
			for _, kind := range sentinels {
				if errors.Is(err, kind) != slices.Contains(c.is, kind) {
					t.Errorf("is %v: %t", kind, errors.Is(err, kind))
				}
			}
		})
	}
}

func TestErrorOfOpening(t *testing.T) {
	c := remotetest.Serve(t, &remote.Server{Machines: func(*v1alpha1.UserCluster) (remote.Machines, error) {
		return nil, errors.New("it lives elsewhere")
	}})
	if _, err := c.Machines(cluster()).List(t.Context()); err == nil || err.Error() != "it lives elsewhere" {
		t.Errorf("got %v", err)
	}
}

// TestCallerThatGivesUp checks that the adapter learns of it.
func TestCallerThatGivesUp(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error, 1)
	c := remotetest.Serve(t, serving(plane{observe: func(ctx context.Context) (state controlplane.State, err error) {
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return state, ctx.Err()
	}}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	if _, err := c.ControlPlane(cluster()).Observe(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller gets %v", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the adapter gets %v", err)
	}
}

func TestConfigCrosses(t *testing.T) {
	whole := &rest.Config{Host: "https://a", QPS: -1, UserAgent: "keyturn", TLSClientConfig: rest.TLSClientConfig{
		ServerName: "node", CAData: []byte("ca"), CertData: []byte("cert"), KeyData: []byte("key"),
	}}
	file := rest.CopyConfig(whole)
	file.CertFile = "/etc/cert"
	bearer := rest.CopyConfig(whole)
	bearer.BearerToken = "secret"
	for name, c := range map[string]struct {
		config *rest.Config
		ok     bool
	}{"in memory": {whole, true}, "of a file": {file, false}, "of a token": {bearer, false}} {
		t.Run(name, func(t *testing.T) {
			client := remotetest.Serve(t, serving(plane{config: c.config}))
			got, err := client.ControlPlane(cluster()).Config(t.Context(), "")
			if c.ok && (err != nil || !reflect.DeepEqual(got, c.config)) || !c.ok && err == nil {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// buffer is a log that several goroutines may write.
type buffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// TestPrivateKeysAreInNoLog has calls with a private key succeed, fail and panic.
func TestPrivateKeysAreInNoLog(t *testing.T) {
	var log buffer
	key := testKey(t, 1, jwks.ES256)
	private := privateOf(t, key)
	outcomes := []func() error{
		func() error { return nil },
		func() error { return fmt.Errorf("converging to %v: failed", key) },
		func() error { panic(key) },
	}
	var next func() error
	s := serving(plane{converge: func(context.Context, controlplane.Target, []keystore.KeyPair) error { return next() }})
	s.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c := remotetest.Serve(t, s)
	var said strings.Builder
	for _, next = range outcomes {
		err := c.ControlPlane(cluster()).Converge(t.Context(), controlplane.Target{}, []keystore.KeyPair{key})
		fmt.Fprintf(&said, "%v %+v %#v\n", err, err, err)
	}
	wrong := key
	wrong.KeyID = "another"
	err := c.ControlPlane(cluster()).Converge(t.Context(), controlplane.Target{}, []keystore.KeyPair{wrong})
	if err == nil || !strings.Contains(err.Error(), "its kid does not belong to its key") {
		t.Errorf("a key whose parts do not agree: %v", err)
	}
	fmt.Fprintf(&said, "%v %+v\n", err, err)
	eventually(t, "the log to tell of the panic", func() error { // it does so after the answer
		if !strings.Contains(log.String(), "panic") {
			return errors.New(log.String())
		}
		return nil
	})
	for _, form := range []string{"PRIVATE KEY", string(private), base64.StdEncoding.EncodeToString(private)[:40]} {
		if strings.Contains(log.String(), form) || strings.Contains(said.String(), form) {
			t.Errorf("a private key is in a log or an error:\n%s%s", log.String(), said.String())
		}
	}
}

func TestNamesThatAreNone(t *testing.T) {
	c := remotetest.Serve(t, &remote.Server{Machines: func(*v1alpha1.UserCluster) (remote.Machines, error) {
		t.Error("an adapter was opened")
		return nil, errors.New("opened")
	}})
	for _, change := range []func(*v1alpha1.UserCluster){
		func(uc *v1alpha1.UserCluster) { uc.Name = "../blue" },
		func(uc *v1alpha1.UserCluster) { uc.Name = "" },
		func(uc *v1alpha1.UserCluster) { uc.Namespace = "a/b" },
		func(uc *v1alpha1.UserCluster) { uc.Namespace = "a.b" },
		func(uc *v1alpha1.UserCluster) { uc.UID = "" },
	} {
		uc := cluster()
		change(uc)
		if _, err := c.Machines(uc).List(t.Context()); err == nil {
			t.Errorf("cluster %s/%s with UID %q is served", uc.Namespace, uc.Name, uc.UID)
		}
	}
}

// untouched are machines that fail a test when they are called.
type untouched struct {
	remote.Machines
	t *testing.T
}

func (u untouched) Remove(context.Context, string) (bool, error) {
	u.t.Error("a machine was removed")
	return true, nil
}

func TestMachineNamesThatAreNone(t *testing.T) {
	c := remotetest.Serve(t, &remote.Server{Machines: func(*v1alpha1.UserCluster) (remote.Machines, error) {
		return untouched{t: t}, nil
	}})
	m := c.Machines(cluster())
	for _, name := range []string{"", "..", "../../other", "A", "a/b"} {
		_, errRemove := m.Remove(t.Context(), name)
		_, errTokens := m.Tokens(t.Context(), name, nil)
		for what, err := range map[string]error{
			"Remove": errRemove, "Tokens": errTokens, "RestartKubelet": m.RestartKubelet(t.Context(), name),
			"Remember": m.Remember(t.Context(), nodes.Machine{Name: name}),
			"Ensure":   m.Ensure(t.Context(), nodes.Machine{Name: name}, v1alpha1.NodePool{}),
		} {
			if err == nil || !strings.Contains(err.Error(), "the name of the machine") {
				t.Errorf("%s of %q: %v", what, name, err)
			}
		}
	}
}
