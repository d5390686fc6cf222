package machines

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/local/plane"
)

const (
	// tokenLife is how long a bootstrap token is valid, and tokenSpare how much of that a machine must have to join.
	tokenLife  = time.Hour
	tokenSpare = 15 * time.Minute
	// labelBootstrapToken marks the bootstrap tokens that this package made.
	labelBootstrapToken = "keyturn.dev/bootstrap-token"

	// The fields of a bootstrap token Secret (k8s.io/cluster-bootstrap/token/api).
	tokenID         = "token-id"
	tokenSecret     = "token-secret"
	tokenExpiration = "expiration"
	tokenUsage      = "usage-bootstrap-authentication"
)

// ensureJoinable prepares the cluster for machines to join, and returns a bootstrap token.
func ensureJoinable(ctx context.Context, config *rest.Config) (string, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", fmt.Errorf("making a client: %w", err)
	}
	if err := plane.LetNodesJoin(ctx, client); err != nil {
		return "", err
	}
	return ensureBootstrapToken(ctx, client, time.Now())
}

// ensureBootstrapToken returns a bootstrap token of the cluster that is valid for a while. kube-controller-manager
// deletes expired ones.
func ensureBootstrapToken(ctx context.Context, client kubernetes.Interface, now time.Time) (string, error) {
	secrets := client.CoreV1().Secrets(metav1.NamespaceSystem)
	list, err := secrets.List(ctx, metav1.ListOptions{LabelSelector: labelBootstrapToken})
	if err != nil {
		return "", fmt.Errorf("listing bootstrap tokens: %w", err)
	}
	for _, s := range list.Items {
		expires, err := time.Parse(time.RFC3339, string(s.Data[tokenExpiration]))
		if err == nil && now.Add(tokenSpare).Before(expires) {
			return bootstrapToken(s.Data), nil
		}
	}
	secret := newBootstrapToken(now)
	if _, err := secrets.Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		return "", fmt.Errorf("creating bootstrap token: %w", err)
	}
	return bootstrapToken(secret.Data), nil
}

// newBootstrapToken makes a token with which a kubelet may request a certificate and nothing else.
func newBootstrapToken(now time.Time) *corev1.Secret {
	id := randomText(6)
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceSystem,
			Name:      "bootstrap-token-" + id,
			Labels:    map[string]string{labelBootstrapToken: "true"},
		},
		Type: corev1.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			tokenID:         []byte(id),
			tokenSecret:     []byte(randomText(16)),
			tokenExpiration: []byte(now.Add(tokenLife).UTC().Format(time.RFC3339)),
			tokenUsage:      []byte("true"),
		},
	}
}

func bootstrapToken(data map[string][]byte) string {
	return string(data[tokenID]) + "." + string(data[tokenSecret])
}

// randomText returns n random characters of a-z and 2-7, which bootstrap tokens may contain.
func randomText(n int) string {
	raw := make([]byte, n)
	_, _ = rand.Read(raw) // never fails: it crashes the program instead
	return strings.ToLower(base32.StdEncoding.EncodeToString(raw))[:n]
}
