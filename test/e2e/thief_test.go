package e2e

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/token"
)

// decade is what a thief asks for.
const decade = 10 * 365 * 24 * time.Hour

// TestLeakedKey attacks a cluster with a key that was read from its Secret, as docs/operations/emergency.md tells it,
// and then does what that page says.
func TestLeakedKey(t *testing.T) {
	t.Parallel()
	for _, source := range []v1alpha1.KeySource{v1alpha1.KeySourceExternal, v1alpha1.KeySourceFiles} {
		t.Run(string(source), func(t *testing.T) { testLeakedKey(t, source) })
	}
}

func testLeakedKey(t *testing.T, source v1alpha1.KeySource) {
	t.Parallel()
	p := newPlace(t)
	p.createCluster(single(source) + p.gkeConnect())
	shop := p.newAccount(t, "shop")
	f := p.steal(t)

	forged := f.forge("shop", shop, f.audience)
	f.expectAccepted(forged)
	f.createLegacy(forged)
	forPool := f.forge("ghost", "an account that does not exist", pool)
	access := f.trade(forPool)

	p.must(p.credentials("rotate", "--skip-prompt")...)
	requested := f.requestOfNewKey(forged)
	p.must(p.credentials("status", "--wait", "--timeout", rotateTimeout.String())...)
	p.expectStatus(2)

	p.expectRefused(t, forged)
	p.expectFleetRefuses(t, forPool)
	f.expectAccepted(requested)
	f.expectExpiry(requested, source)
	legacy := f.legacy()
	f.expectAccepted(legacy)
	if err := f.use(access); err != nil {
		t.Errorf("the access token that the STS gave before: %v", err)
	}

	p.renew(t, "shop")
	f.awaitRefused(requested)
	f.awaitRefused(legacy)
	f.awaitNoLegacy()
	p.renew(t, "default")
	p.end(t)
}

// newAccount makes an account that may do everything, and returns its UID.
func (p *place) newAccount(t *testing.T, name string) string {
	t.Helper()
	c := p.user("e2e")
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	made, err := c.CoreV1().ServiceAccounts("default").Create(t.Context(), account, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: name}},
	}
	if _, err := c.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return string(made.UID)
}

// renew gives an account another UID, by the commands of the page.
func (p *place) renew(t *testing.T, account string) {
	t.Helper()
	accounts := p.user("e2e").CoreV1().ServiceAccounts("default")
	before, err := accounts.Get(t.Context(), account, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	commands := pageBlock(t, "emergency.md", "u -n NAMESPACE get serviceaccount")
	if account == "default" {
		commands = "set +e\n" + commands + "true\n" // the cluster may be faster
	}
	p.shell(t, map[string]string{"NAME": "e2e", "NAMESPACE": "default", "ACCOUNT": account},
		pageBlock(t, "emergency.md", "alias u="), commands)
	p.await(t, "reading account "+account, func(ctx context.Context) error {
		after, err := accounts.Get(ctx, account, metav1.GetOptions{})
		if err == nil && after.UID == before.UID {
			t.Errorf("account %s has its old UID", account)
		}
		return err
	})
}

// thief has the signing key of a cluster.
type thief struct {
	*place
	t      *testing.T
	signer *token.Signer
	// kid is the kid of the key, and issuer and audience are what the cluster's own tokens have.
	kid, issuer, audience string
}

// steal reads key version 1 from its Secret.
func (p *place) steal(t *testing.T) thief {
	t.Helper()
	secret := &corev1.Secret{}
	name := client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: "e2e-ksa-signing-key-1"}
	if err := p.admin().Get(t.Context(), name, secret); err != nil {
		t.Fatal(err)
	}
	key, err := token.ParsePrivateKey(secret.Data["private.pem"])
	if err != nil {
		t.Fatal(err)
	}
	kid := string(secret.Data["kid"])
	signer, err := token.NewSigner(key, string(secret.Data["algorithm"]), kid)
	if err != nil {
		t.Fatal(err)
	}
	_, claims, err := token.ParseUnverified(p.mint(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	return thief{place: p, t: t, signer: signer, kid: kid, issuer: claims.Issuer, audience: claims.Audience[0]}
}

// forge signs a token for ten years.
func (f thief) forge(account, uid, audience string) string {
	f.t.Helper()
	claims := token.NewBoundClaims(f.issuer, []string{audience}, token.Kubernetes{
		Namespace: "default", ServiceAccount: token.Ref{Name: account, UID: uid},
	}, time.Now(), decade)
	forged, err := f.signer.Sign(rand.Reader, claims)
	if err != nil {
		f.t.Fatal(err)
	}
	return forged
}

// with returns a client with a token and nothing else.
func (f thief) with(bearer string) kubernetes.Interface {
	f.t.Helper()
	cfg := rest.AnonymousClientConfig(f.restConfig(f.userKubeconfig("e2e")))
	cfg.BearerToken = bearer
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// expectAccepted checks that a token does what its account may do.
func (f thief) expectAccepted(bearer string) {
	f.t.Helper()
	f.await(f.t, "using a token", func(ctx context.Context) error {
		_, err := f.with(bearer).CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
		return err
	})
}

// awaitRefused waits until a token is of no use.
func (f thief) awaitRefused(bearer string) {
	f.t.Helper()
	f.await(f.t, "seeing that a token is refused", func(ctx context.Context) error {
		_, err := f.with(bearer).CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
		switch {
		case err == nil:
			return errors.New("it is accepted")
		case apierrors.IsUnauthorized(err):
			return nil
		}
		return err
	})
}

// requestOfNewKey asks for a token by a forged one, until it gets one of another key.
func (f thief) requestOfNewKey(forged string) string {
	f.t.Helper()
	accounts := f.with(forged).CoreV1().ServiceAccounts("default")
	seconds := int64(decade / time.Second)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	ctx, cancel := context.WithTimeout(f.t.Context(), rotateTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		answer, err := accounts.CreateToken(ctx, "shop", request, metav1.CreateOptions{})
		if apierrors.IsUnauthorized(err) && f.cluster("e2e").Status.KSASigningKey.CompletedAt != nil {
			f.t.Fatal("the rotation is over, and the forged token got none of the new key")
		}
		if err == nil {
			if kid, err := token.KeyID(answer.Status.Token); err == nil && kid != f.kid {
				return answer.Status.Token
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.t.Fatalf("no token of the new key: %v", err)
		}
	}
}

// expectExpiry checks for how long a requested token lives.
func (f thief) expectExpiry(requested string, source v1alpha1.KeySource) {
	f.t.Helper()
	_, claims, err := token.ParseUnverified(requested)
	if err != nil {
		f.t.Fatal(err)
	}
	life := time.Unix(int64(claims.Expiry), 0).Sub(time.Unix(int64(claims.IssuedAt), 0))
	most := 366 * 24 * time.Hour
	if source == v1alpha1.KeySourceFiles {
		most = decade
	}
	if life > most || source == v1alpha1.KeySourceFiles && life < decade {
		f.t.Errorf("the token that was requested lives for %s", life)
	}
}

const stolen = "stolen"

// createLegacy creates a Secret with a legacy token, and waits for the token.
func (f thief) createLegacy(bearer string) {
	f.t.Helper()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: stolen, Annotations: map[string]string{corev1.ServiceAccountNameKey: "shop"}},
		Type:       corev1.SecretTypeServiceAccountToken,
	}
	secrets := f.with(bearer).CoreV1().Secrets("default")
	if _, err := secrets.Create(f.t.Context(), secret, metav1.CreateOptions{}); err != nil {
		f.t.Fatal(err)
	}
	f.legacy()
}

// legacy returns the legacy token, once there is one.
func (f thief) legacy() (legacy string) {
	f.t.Helper()
	f.await(f.t, "reading a legacy token", func(ctx context.Context) error {
		secret, err := f.user("e2e").CoreV1().Secrets("default").Get(ctx, stolen, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if legacy = string(secret.Data[corev1.ServiceAccountTokenKey]); legacy == "" {
			return fmt.Errorf("secret %s has no token", stolen)
		}
		return nil
	})
	return legacy
}

// awaitNoLegacy waits until the Secret went with its account.
func (f thief) awaitNoLegacy() {
	f.t.Helper()
	f.await(f.t, "seeing that a legacy token is gone", func(ctx context.Context) error {
		_, err := f.user("e2e").CoreV1().Secrets("default").Get(ctx, stolen, metav1.GetOptions{})
		if err == nil {
			return errors.New("it is there")
		}
		return client.IgnoreNotFound(err)
	})
}

// fleet returns a client of the local fleet.
func (f thief) fleet() *http.Client {
	f.t.Helper()
	ca, err := os.ReadFile(filepath.Join(f.dir, "fleet-ca.crt"))
	if err != nil {
		f.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true,
	}}
}

// trade trades a token for an access token, without anything of a workload but the token.
func (f thief) trade(subject string) string {
	f.t.Helper()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	f.await(f.t, "trading a forged token", func(context.Context) error {
		resp, err := f.fleet().PostForm(f.fleetEndpoint()+"/v1/token", url.Values{
			"grant_type":           {"urn:ietf:params:oauth:grant-type:token-exchange"},
			"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
			"subject_token_type":   {"urn:ietf:params:oauth:token-type:jwt"},
			"subject_token":        {subject},
			"scope":                {"https://www.googleapis.com/auth/cloud-platform"},
			"audience": {"identitynamespace:" + pool + ":https://gkehub.googleapis.com/projects/" + project +
				"/locations/global/memberships/e2e"},
		})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("the STS answers with %s", resp.Status)
		}
		return json.NewDecoder(resp.Body).Decode(&answer)
	})
	return answer.AccessToken
}

// use uses an access token.
func (f thief) use(access string) error {
	request, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, f.fleetEndpoint()+"/v1/whoami", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+access)
	resp, err := f.fleet().Do(request)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it is answered with %s", resp.Status)
	}
	return nil
}
