package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/local/kubeadm"
)

// TestKubeadm rotates the keys of a cluster that kubeadm made, with the directory of keys that kubespray chooses.
// Keyturn runs in that cluster, installed by its own chart. The only API server is away while its files change, and no
// token is ever refused.
func TestKubeadm(t *testing.T) {
	t.Parallel()
	options := kubeadm.Options{Algorithm: "ECDSA-P256", CertificatesDir: "/etc/kubernetes/ssl"}
	k := newSelfManaged(t, options, 1, 2)
	k.install()
	k.startProbe()
	k.create()
	k.rotate(nothing)
	k.useSource(v1alpha1.KeySourceExternal)
	k.rotate(nothing)
	k.rotate(nothing)
	k.expectSecrecy()
	k.release()
	k.expectSecrecy()
	k.expectNoRefusals()
}

// nothing is done in a rotation that nobody disturbs.
func nothing() {}

// create creates the UserCluster, unless it is there, and waits until it is settled.
func (k *selfManaged) create() {
	k.t.Helper()
	done := k.stage("adopting")
	_, err := k.cluster(k.t.Context())
	fresh := apierrors.IsNotFound(err)
	before := k.serverManifest(k.controlPlanes[0])
	k.apply([]byte(`apiVersion: keyturn.dev/v1alpha1
kind: UserCluster
metadata:
  name: self
  namespace: keyturn-system
spec:
  infrastructure:
    kubeadm: {certificatesDir: ` + k.PKI("") + `}
  ksaSigningKey: {}
`))
	uc := k.await(k.version())
	done()
	if after := k.serverManifest(k.controlPlanes[0]); fresh && after != before {
		k.t.Errorf("adopting has changed the manifest:\n%s", after)
	}
	if keys := uc.Status.KSASigningKey.Keys; len(keys) != 1 || keys[0].KeyID != k.signingKey() {
		k.t.Errorf("the keys are %+v, want that of sa.key, %s", keys, k.signingKey())
	}
}

// version is the key version that the UserCluster wants.
func (k *selfManaged) version() (version int32) {
	k.t.Helper()
	k.Eventually("the UserCluster", func(ctx context.Context) error {
		uc, err := k.cluster(ctx)
		version = uc.Spec.KSASigningKey.Version
		return err
	})
	return version
}

// rotate rotates to the next key version, and has something done meanwhile. A token from before is refused after it.
func (k *selfManaged) rotate(during func()) {
	k.t.Helper()
	old, version := k.mint(), k.version()+1
	k.retire()
	done := k.stage(fmt.Sprintf("rotating to key version %d", version))
	k.patch(fmt.Sprintf(`{"spec":{"ksaSigningKey":{"version":%d}}}`, version))
	during()
	uc := k.await(version)
	done()
	keys := uc.Status.KSASigningKey.Keys
	if len(keys) != 1 || keys[0].KeyID != k.signingKey() {
		k.t.Errorf("the keys are %+v, and sa.key is %s", keys, k.signingKey())
	}
	if k.accepts(old) {
		k.t.Errorf("a token from before key version %d is accepted", version)
	}
	if !k.accepts(k.mint()) {
		k.t.Errorf("a token of key version %d is refused", version)
	}
}

// useSource has the API servers get their keys from elsewhere.
func (k *selfManaged) useSource(source v1alpha1.KeySource) {
	k.t.Helper()
	done := k.stage("changing the key source to " + string(source))
	k.patch(fmt.Sprintf(`{"spec":{"ksaSigningKey":{"source":%q}}}`, source))
	k.awaitSource(source)
	done()
}

// release deletes the UserCluster. The cluster goes on with its key in files, and nothing of Keyturn.
func (k *selfManaged) release() {
	k.t.Helper()
	key, token := k.signingKey(), k.mint()
	done := k.stage("releasing")
	k.Eventually("the UserCluster to be deleted", func(ctx context.Context) error {
		uc, err := k.cluster(ctx)
		if err == nil {
			err = k.admin.Delete(ctx, uc)
		}
		return err
	})
	k.until("the UserCluster to be gone", func(ctx context.Context) error {
		uc, err := k.cluster(ctx)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("it waits: %+v", uc.Status.Conditions)
		}
		return err
	})
	done()
	if k.signingKey() != key || !k.accepts(token) {
		k.t.Error("the cluster does not go on with its key")
	}
	for _, node := range k.controlPlanes {
		manifest := k.serverManifest(node)
		for _, flag := range []string{"service-account-signing-endpoint", "shutdown-send-retry-after"} {
			if strings.Contains(manifest, flag) {
				k.t.Errorf("the manifest of node %s still has --%s", node, flag)
			}
		}
		if _, err := k.Run(k.t.Context(), node, "/bin/sh", "-c",
			"! find /var/lib/keyturn /etc/kubernetes/manifests/keyturn* -type f | grep ."); err != nil {
			k.t.Errorf("files of Keyturn are left on node %s: %v", node, err)
		}
	}
	k.Eventually("the agent to be gone", func(ctx context.Context) error {
		sets, err := k.client.AppsV1().DaemonSets("keyturn-agent").List(ctx, metav1.ListOptions{})
		if err == nil && len(sets.Items) > 0 {
			err = errors.New("its DaemonSet is there")
		}
		return err
	})
}

// await waits until the cluster is settled with a key version.
func (k *selfManaged) await(version int32) (uc *v1alpha1.UserCluster) {
	k.t.Helper()
	k.until(fmt.Sprintf("key version %d to be all there is", version), func(ctx context.Context) (err error) {
		if uc, err = k.settled(ctx); err != nil {
			return err
		}
		key := uc.Status.KSASigningKey
		if key.TokenVersion != version || key.PrivateKeyVersion != version ||
			!slices.Equal(key.PublicKeyVersions, []int32{version}) {
			return fmt.Errorf("the keys are %+v", key)
		}
		return k.haveAlone(uc, version)
	})
	return uc
}

// haveAlone returns which control-plane node Keyturn has not seen with this key version alone. A node that joins after
// a rotation is not in its status yet.
func (k *selfManaged) haveAlone(uc *v1alpha1.UserCluster, version int32) error {
	for _, node := range k.controlPlanes {
		if !slices.ContainsFunc(uc.Status.APIServers, func(s v1alpha1.APIServerStatus) bool {
			return s.Name == node && s.SigningVersion == version && slices.Equal(s.AcceptedVersions, []int32{version})
		}) {
			return fmt.Errorf("the API server of node %s has not shown key version %d alone: %+v", node, version,
				uc.Status.APIServers)
		}
	}
	return nil
}

// awaitSource waits until the cluster is settled with a key source.
func (k *selfManaged) awaitSource(source v1alpha1.KeySource) {
	k.t.Helper()
	k.until("key source "+string(source), func(ctx context.Context) error {
		if _, err := k.settled(ctx); err != nil {
			return err
		}
		for _, node := range k.controlPlanes {
			external := strings.Contains(k.serverManifest(node), "service-account-signing-endpoint")
			if external != (source == v1alpha1.KeySourceExternal) {
				return fmt.Errorf("node %s has another one", node)
			}
		}
		return nil
	})
}

// settled reads the UserCluster, or why it is not as its spec wants it.
func (k *selfManaged) settled(ctx context.Context) (*v1alpha1.UserCluster, error) {
	uc, err := k.cluster(ctx)
	if err != nil {
		return nil, err
	}
	for _, wanted := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionKSASigningKeyRotation} {
		if !slices.ContainsFunc(uc.Status.Conditions, func(c metav1.Condition) bool {
			return c.Type == wanted && c.Status == metav1.ConditionTrue && c.ObservedGeneration == uc.Generation
		}) {
			key := uc.Status.KSASigningKey
			return nil, fmt.Errorf("%s is not True: %+v; %s: %s", wanted, uc.Status.Conditions, key.Step, key.WaitingFor)
		}
	}
	return uc, nil
}

// mint requests a token that API servers would accept for an hour.
func (k *selfManaged) mint() (token string) {
	k.t.Helper()
	k.Eventually("a token", func(ctx context.Context) error {
		seconds := int64(3600)
		r, err := k.client.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds},
		}, metav1.CreateOptions{})
		if err == nil {
			token = r.Status.Token
		}
		return err
	})
	return token
}

// accepts reports whether an API server accepts a token.
func (k *selfManaged) accepts(token string) (accepted bool) {
	k.t.Helper()
	k.Eventually("the review of a token", func(ctx context.Context) error {
		r, err := k.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: token},
		}, metav1.CreateOptions{})
		if err == nil {
			accepted = r.Status.Authenticated
		}
		return err
	})
	return accepted
}
