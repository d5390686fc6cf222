package localtest

import (
	"context"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/process"
)

// Driver does what a controller does: converge, observe, again.
type Driver struct {
	T    *testing.T
	UC   *v1alpha1.UserCluster
	Data *datadir.Dir
	// Open opens the control plane, again for each call, as a controller does.
	Open func() controlplane.Adapter
	// Observed receives the state while Give changes the keys of an API server; it may be nil.
	Observed func(controlplane.State)
}

// Patience is how long a test waits for an expected event: long enough for a busy machine.
const Patience = 5 * time.Minute

// Until repeats Converge until the observed state satisfies done.
func (d *Driver) Until(
	what string, target controlplane.Target, keys []keystore.KeyPair, done func(controlplane.State) bool,
) controlplane.State {
	d.T.Helper()
	var state controlplane.State
	begin := time.Now()
	for time.Since(begin) < Patience {
		if err := d.Open().Converge(d.T.Context(), target, keys); err != nil {
			d.T.Fatalf("%s: %v", what, err)
		}
		var err error
		if state, err = d.Open().Observe(d.T.Context()); err != nil {
			d.T.Fatalf("%s: %v", what, err)
		}
		if done(state) {
			d.T.Logf("%s: %.1f s", what, time.Since(begin).Seconds())
			return state
		}
		time.Sleep(100 * time.Millisecond)
	}
	d.T.Fatalf("%s: not within %s; last state: %+v", what, Patience, state)
	return state
}

// Give takes the API servers down one by one and gives them keys.
func (d *Driver) Give(what string, want controlplane.Keys, sign int, keys ...keystore.KeyPair) {
	d.T.Helper()
	for i := range int(d.UC.Spec.Infrastructure.Local.ControlPlane.Replicas) {
		target := controlplane.Target{Keys: want, Next: components.APIServerName(i), ControllerManagerSign: sign}
		d.Until(what+" at "+target.Next, target, keys, func(s controlplane.State) bool {
			if d.Observed != nil {
				d.Observed(s)
			}
			return Ready(s) && s.Servers[i].Running.Equal(want)
		})
	}
}

// Ready reports whether the whole control plane serves.
func Ready(s controlplane.State) bool {
	if len(s.Servers) == 0 || s.Waiting != "" {
		return false
	}
	for _, x := range s.Servers {
		if !x.Ready {
			return false
		}
	}
	for _, m := range s.ControllerManagers {
		if !m.Ready || m.Running != m.Configured {
			return false
		}
	}
	return true
}

// Delete deletes the control plane.
func (d *Driver) Delete() {
	d.T.Helper()
	for begin := time.Now(); time.Since(begin) < Patience; time.Sleep(50 * time.Millisecond) {
		gone, err := d.Open().Delete(context.Background())
		if err != nil {
			d.T.Errorf("deleting: %v", err)
			return
		}
		if gone {
			return
		}
	}
	d.T.Error("control plane was not deleted within a minute")
}

// Client returns a client of one API server or, with an empty name, of the load balancer.
func (d *Driver) Client(server string) *kubernetes.Clientset {
	d.T.Helper()
	cfg, err := d.Open().Config(d.T.Context(), server)
	if err != nil {
		d.T.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		d.T.Fatal(err)
	}
	return client
}

// Issue makes an API server sign a token.
func (d *Driver) Issue(server string) string {
	d.T.Helper()
	seconds := int64(3600)
	// The ServiceAccount exists once a kube-controller-manager created it.
	var last error
	for begin := time.Now(); time.Since(begin) < Patience; time.Sleep(100 * time.Millisecond) {
		r, err := d.Client(server).CoreV1().ServiceAccounts("default").CreateToken(d.T.Context(), "default",
			&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}},
			metav1.CreateOptions{})
		if err == nil {
			return r.Status.Token
		}
		last = err
	}
	d.T.Fatalf("issuing a token at %s: %v", server, last)
	return ""
}

// Accepts reports whether one API server accepts a token.
func (d *Driver) Accepts(server, token string) bool {
	d.T.Helper()
	r, err := d.Client(server).AuthenticationV1().TokenReviews().Create(d.T.Context(),
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		d.T.Fatalf("reviewing a token at %s: %v", server, err)
	}
	return r.Status.Authenticated
}

// Site returns the site of the cluster on this host.
func (d *Driver) Site() datadir.Site {
	d.T.Helper()
	site, _, err := d.Data.Site(datadir.SiteName(d.UC))
	if err != nil {
		d.T.Fatal(err)
	}
	return site
}

// Runner returns the runner of the control plane's processes.
func (d *Driver) Runner() *process.Runner { return process.New(d.Site().Path("run")) }

// Kill kills a process of the control plane.
func (d *Driver) Kill(name string) {
	d.T.Helper()
	if err := d.Runner().Signal(name, syscall.SIGKILL); err != nil {
		d.T.Fatal(err)
	}
}

// PID returns the process ID of a process of the control plane; 0 if it does not run.
func (d *Driver) PID(name string) int {
	d.T.Helper()
	st, err := d.Runner().Observe(name)
	if err != nil {
		d.T.Fatal(err)
	}
	return st.PID
}
