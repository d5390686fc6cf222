package controlplane_test

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// shared is an API server with one key, and no signer. The first test that needs it starts it.
var shared struct {
	start  sync.Once
	key    keystore.KeyPair
	config *rest.Config
	stop   func() error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.stop != nil {
		if err := shared.stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// sharedServer returns the key of the shared API server, which is version 1, and how to reach it. It is for tests that
// change nothing of it but its canary account, which may be there or not.
func sharedServer(t *testing.T) (keystore.KeyPair, *rest.Config) {
	t.Helper()
	shared.start.Do(func() {
		key := generate(t, 1, "ES256")
		config, stop, err := kubetest.Launch(kubetest.Options{APIServerArgs: keyFiles(t, key, key)})
		if err != nil {
			t.Fatal(err)
		}
		shared.key, shared.config, shared.stop = key, config, stop
	})
	if shared.config == nil {
		t.Fatal("the shared API server did not start")
	}
	return shared.key, shared.config
}
