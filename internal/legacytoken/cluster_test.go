package legacytoken

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// cluster is an API server in the middle of a rotation: it accepts both keys and signs with the new one. No
// kube-controller-manager runs, so nobody but the test touches Secrets.
type cluster struct {
	config   *rest.Config
	client   kubernetes.Interface
	old, new keystore.KeyPair
}

func newCluster(tb testing.TB, algorithm string) *cluster {
	tb.Helper()
	c := &cluster{old: generate(tb, 1, algorithm), new: generate(tb, 2, algorithm)}
	dir := tb.TempDir()
	private, err := token.MarshalPrivateKey(c.new.Signer)
	if err != nil {
		tb.Fatal(err)
	}
	c.config = controlplane.Unlimited(kubetest.Start(tb, kubetest.Options{APIServerArgs: map[string][]string{
		"service-account-key-file":         {publicFile(tb, dir, c.old), publicFile(tb, dir, c.new)},
		"service-account-signing-key-file": {writeFile(tb, filepath.Join(dir, "new.key"), private)},
	}}))
	c.client = newClient(tb, c.config)
	return c
}

func generate(tb testing.TB, version int, algorithm string) keystore.KeyPair {
	tb.Helper()
	k, err := keystore.Generate(rand.Reader, version, algorithm)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func publicFile(tb testing.TB, dir string, k keystore.KeyPair) string {
	tb.Helper()
	public, err := jwks.MarshalPublicKey(k.Signer.Public())
	if err != nil {
		tb.Fatal(err)
	}
	return writeFile(tb, filepath.Join(dir, fmt.Sprintf("%d.pub", k.Version)), public)
}

func writeFile(tb testing.TB, name string, data []byte) string {
	tb.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		tb.Fatal(err)
	}
	return name
}

func newClient(tb testing.TB, config *rest.Config) kubernetes.Interface {
	tb.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		tb.Fatal(err)
	}
	return client
}

func targetOf(tb testing.TB, k keystore.KeyPair) Target {
	tb.Helper()
	target, err := NewTarget(k)
	if err != nil {
		tb.Fatal(err)
	}
	return target
}

// account makes a ServiceAccount in a namespace that it makes as well, unless they are there.
func (c *cluster) account(tb testing.TB, namespace, name string) types.UID {
	tb.Helper()
	ctx := tb.Context()
	if _, err := c.client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{}); err != nil {
		n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
		if _, err := c.client.CoreV1().Namespaces().Create(ctx, n, metav1.CreateOptions{}); err != nil {
			tb.Fatal(err)
		}
	}
	accounts := c.client.CoreV1().ServiceAccounts(namespace)
	if a, err := accounts.Get(ctx, name, metav1.GetOptions{}); err == nil {
		return a.UID
	}
	a, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}},
		metav1.CreateOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return a.UID
}

// legacySecret returns a Secret as kube-controller-manager leaves it, with a token of key k and things of its owner.
func legacySecret(tb testing.TB, k keystore.KeyPair, namespace, name, account string, uid types.UID) *corev1.Secret {
	tb.Helper()
	signed, err := token.Sign(rand.Reader, k.Signer, k.Algorithm, k.KeyID, token.NewLegacyClaims(token.Legacy{
		Namespace: namespace, SecretName: name, ServiceAccountName: account, ServiceAccountUID: string(uid),
	}))
	if err != nil {
		tb.Fatal(err)
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: namespace,
			Labels: map[string]string{"owner": name},
			Annotations: map[string]string{
				corev1.ServiceAccountNameKey: account,
				corev1.ServiceAccountUIDKey:  string(uid),
				"note":                       "kept",
			},
		},
		Type: corev1.SecretTypeServiceAccountToken,
		Data: map[string][]byte{
			corev1.ServiceAccountTokenKey:     []byte(signed),
			corev1.ServiceAccountRootCAKey:    []byte("-----BEGIN CERTIFICATE-----\n"),
			corev1.ServiceAccountNamespaceKey: []byte(namespace),
			"extra":                           {0, 1, 2, 255},
		},
	}
}

// fill creates n Secrets of the old key in a namespace, and returns them.
func (c *cluster) fill(tb testing.TB, namespace string, n int) []*corev1.Secret {
	tb.Helper()
	uid := c.account(tb, namespace, "robot")
	made := make([]*corev1.Secret, n)
	parallel(n, func(i int) {
		made[i] = c.create(tb, legacySecret(tb, c.old, namespace, fmt.Sprintf("token-%05d", i), "robot", uid))
	})
	return made
}

func (c *cluster) create(tb testing.TB, s *corev1.Secret) *corev1.Secret {
	tb.Helper()
	s, err := c.client.CoreV1().Secrets(s.Namespace).Create(tb.Context(), s, metav1.CreateOptions{})
	if err != nil {
		tb.Error(err)
	}
	return s
}

func (c *cluster) get(tb testing.TB, s *corev1.Secret) *corev1.Secret {
	tb.Helper()
	s, err := c.client.CoreV1().Secrets(s.Namespace).Get(tb.Context(), s.Name, metav1.GetOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// empty deletes the legacy Secrets and pods of all namespaces.
func (c *cluster) empty(tb testing.TB) {
	tb.Helper()
	ctx, now := context.Background(), int64(0)
	namespaces, err := c.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	for _, n := range namespaces.Items {
		err := c.client.CoreV1().Secrets(n.Name).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
		if err != nil {
			tb.Fatal(err)
		}
		err = c.client.CoreV1().Pods(n.Name).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now},
			metav1.ListOptions{})
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// parallel calls f for 0 to n-1, eight at a time.
func parallel(n int, f func(int)) {
	next := make(chan int)
	done := make(chan struct{})
	for range 8 {
		go func() {
			for i := range next {
				f(i)
			}
			done <- struct{}{}
		}()
	}
	for i := range n {
		next <- i
	}
	close(next)
	for range 8 {
		<-done
	}
}

// wantResigned checks that a Secret holds a good token of the new key, and all else that it held before.
func (c *cluster) wantResigned(tb testing.TB, before *corev1.Secret) {
	tb.Helper()
	now := c.get(tb, before)
	if err := c.verify(now, before.Annotations[corev1.ServiceAccountNameKey]); err != nil {
		tb.Errorf("Secret %s/%s: %v", now.Namespace, now.Name, err)
	}
	now.Data[corev1.ServiceAccountTokenKey] = before.Data[corev1.ServiceAccountTokenKey]
	if !maps.EqualFunc(now.Data, before.Data, slices.Equal) {
		tb.Errorf("Secret %s/%s: other data has changed", now.Namespace, now.Name)
	}
	if now.UID != before.UID || !maps.Equal(now.Labels, before.Labels) {
		tb.Errorf("Secret %s/%s: UID or labels have changed: %v, were %v", now.Namespace, now.Name, now.Labels, before.Labels)
	}
	delete(now.Annotations, corev1.ServiceAccountUIDKey)
	before = before.DeepCopy()
	delete(before.Annotations, corev1.ServiceAccountUIDKey)
	if !maps.Equal(now.Annotations, before.Annotations) {
		tb.Errorf("Secret %s/%s: annotations = %v, were %v", now.Namespace, now.Name, now.Annotations, before.Annotations)
	}
	if len(now.ManagedFields) <= len(before.ManagedFields) { // those of before, and ours
		tb.Errorf("Secret %s/%s: managedFields were lost", now.Namespace, now.Name)
	}
}

func (c *cluster) verify(s *corev1.Secret, account string) error {
	key, err := jwks.NewKey(c.new.Signer.Public())
	if err != nil {
		return err
	}
	set, err := jwks.NewSet(key)
	if err != nil {
		return err
	}
	expect := token.Expect{Issuer: token.LegacyIssuer, Now: time.Now()}
	claims, err := token.Verify(string(s.Data[corev1.ServiceAccountTokenKey]), set, expect)
	if err != nil {
		return err
	}
	want := token.Legacy{
		Namespace: s.Namespace, SecretName: s.Name, ServiceAccountName: account,
		ServiceAccountUID: s.Annotations[corev1.ServiceAccountUIDKey],
	}
	if *claims.Legacy != want || claims.Subject != "system:serviceaccount:"+s.Namespace+":"+account {
		return fmt.Errorf("claims = %+v, want %+v", *claims.Legacy, want)
	}
	return nil
}

// pass calls Pass until a walk is complete.
func pass(tb testing.TB, r *Refresher, target Target) Result {
	tb.Helper()
	for {
		result, err := r.Pass(tb.Context(), target)
		if err != nil {
			tb.Fatal(err)
		}
		if result.Complete {
			return result
		}
	}
}

func problems(r Result) string {
	var names []string
	for _, p := range r.Blocked {
		names = append(names, string(p.Reason)+" "+p.Namespace+"/"+p.Name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
